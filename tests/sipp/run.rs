//! One run of one scenario: start everybody, wait for the end, look at what is left.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::agent::{Agent, LIMIT, Launch, require_sipp};
use super::check::{self, Finished};
use super::expect::{AgentSetup, Api, Direction, Scenario, Transport};
use super::ports::{DIALER, PBX_A, PBX_B, Ports, wait_for};
use super::sidecar::Sidecar;

/// Scenarios at a time, per transport.
const WORKERS: usize = 2;

/// Runs every chosen scenario; the error is a report on each that failed.
pub fn all(transport: Transport) -> Result<(), String> {
    require_sipp()?;
    let scenarios = Scenario::chosen(transport)?;
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let result = Run::start(scenario, transport).and_then(Run::finish);
                    let word = if result.is_ok() { "ok" } else { "FAILED" };
                    println!("{word:6} {} {transport} {:?}", scenario.name, began.elapsed());
                    if let (Err(report), Ok(mut failures)) = (result, failures.lock()) {
                        failures.push(format!(
                            "=== {} over {transport}: {}\n{report}",
                            scenario.name, scenario.expect.shows
                        ));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().map_err(|error| error.to_string())?;
    if failures.is_empty() {
        return Ok(());
    }
    let (failed, all) = (failures.len(), scenarios.len());
    Err(format!("{failed} of {all} scenarios failed over {transport}\n\n{}", failures.join("\n")))
}

struct Run<'a> {
    scenario: &'a Scenario,
    sidecar: Sidecar,
    /// The uac last.
    agents: Vec<Agent>,
}

impl<'a> Run<'a> {
    fn start(scenario: &'a Scenario, transport: Transport) -> Result<Run<'a>, String> {
        let folder = fresh_folder(scenario, transport)?;
        let ports = Ports::claim()?;
        let (caller, callee) = match scenario.expect.direction {
            Direction::Outbound => (DIALER, PBX_A),
            Direction::Inbound => (PBX_A, DIALER),
        };
        let expect = &scenario.expect;
        let mut agents = Vec::new();
        let mut start = |name: &'static str, setup: &AgentSetup, address: Ipv4Addr| -> Result<(), String> {
            agents.push(Agent::start(&Launch {
                name,
                scenario: &scenario.name,
                file: scenario.file(name),
                address: setup.address.unwrap_or(address),
                ports,
                transport,
                calls: setup.calls.unwrap_or(expect.calls),
                args: &setup.args,
                folder: &folder,
            })?);
            Ok(())
        };
        if scenario.has_uas() {
            start("uas", &expect.uas, callee)?;
        }
        if scenario.file("uas2").is_some() {
            start("uas2", &expect.uas2, PBX_B)?;
        }
        let sidecar = Sidecar::start(scenario, ports, transport, &folder)?;
        start("uac", &expect.uac, caller)?;
        Ok(Run { scenario, sidecar, agents })
    }

    fn finish(mut self) -> Result<(), String> {
        let mut problems = Vec::new();
        problems.extend(self.wait_for_agents().err());
        for agent in &mut self.agents {
            match agent.ended() {
                Ok(Some(0)) | Ok(None) => {}
                Ok(Some(code)) => problems.push(format!("{} ended with {code}, expected 0", agent.name)),
                Err(error) => problems.push(error),
            }
        }
        let expected = self.scenario.expect.events();
        problems.extend(self.sidecar.wait_until_idle(expected).err());
        problems.extend(self.look().unwrap_or_else(|error| vec![error]));
        problems.extend(self.sidecar.stop().err());
        match self.sidecar.events() {
            Ok(events) if events.len() == expected => {}
            Ok(events) => problems.push(format!("at the very end: expected {expected} event(s), got {}", events.len())),
            Err(error) => problems.push(error),
        }
        problems.extend(self.sidecar.complaints());
        if problems.is_empty() { Ok(()) } else { Err(self.report(&problems)) }
    }

    /// Until every agent has ended, or one has failed; the command to the admin API is given on the way.
    fn wait_for_agents(&mut self) -> Result<(), String> {
        let mut command = self.scenario.expect.api.as_ref();
        let (sidecar, agents) = (&self.sidecar, &mut self.agents);
        let call_id = first_call_id(self.scenario);
        wait_for("every sipp to end", LIMIT + Duration::from_secs(5), || {
            if let Some(api) = command
                && give_command(sidecar, api, &call_id)?
            {
                command = None;
            }
            let mut all_ended = true;
            for agent in agents.iter_mut() {
                match agent.ended()? {
                    Some(0) => {}
                    // The others may wait for what never comes.
                    Some(_) => return Ok(Some(())),
                    None => all_ended = false,
                }
            }
            Ok((all_ended && command.is_none()).then_some(()))
        })
    }

    fn look(&self) -> Result<Vec<String>, String> {
        let finished = Finished {
            expect: &self.scenario.expect,
            events: self.sidecar.events()?,
            scrape: self.sidecar.scrape()?,
            traces: self.agents.iter().map(|agent| (agent.name, agent.messages())).collect(),
        };
        Ok(check::problems(&finished))
    }

    fn report(&self, problems: &[String]) -> String {
        let tails: Vec<String> = self.agents.iter().map(Agent::tail).collect();
        let problems: String = problems.iter().map(|problem| format!("  * {problem}\n")).collect();
        let events = self.sidecar.events().unwrap_or_default();
        let events: String = events.iter().map(|event| format!("{event}\n")).collect();
        format!("{problems}--- events\n{events}{}{}", self.sidecar.tail(), tails.concat())
    }
}

/// Gives the command once the call stands as it should; whether it was given.
fn give_command(sidecar: &Sidecar, api: &Api, call_id: &str) -> Result<bool, String> {
    let Some(call) = sidecar.call(call_id)? else { return Ok(false) };
    if call.get("state").and_then(|state| state.as_str()) != Some(api.when.as_str()) {
        return Ok(false);
    }
    let id = call.get(&api.by).and_then(|id| id.as_str());
    let id = id.ok_or_else(|| format!("the call has no {}: {call}", api.by))?;
    for _ in 0..api.times {
        let (status, body) = sidecar.command(id, &api.post)?;
        if status != api.status {
            return Err(format!("POST {}: expected {}, got {status} {body}", api.post, api.status));
        }
    }
    Ok(true)
}

/// As `-cid_str` makes it.
fn first_call_id(scenario: &Scenario) -> String {
    let caller = match scenario.expect.direction {
        Direction::Outbound => DIALER,
        Direction::Inbound => PBX_A,
    };
    format!("1-{}@{caller}", scenario.name)
}

fn fresh_folder(scenario: &Scenario, transport: Transport) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sipp").join(transport.to_string()).join(&scenario.name);
    // Left from the run before; it is no mistake if there was none.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
