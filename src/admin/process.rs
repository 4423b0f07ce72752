//! The standard `process_*` metrics, read from Linux' `/proc/self`. What can't be read is left out.
//!
//! Written as text: CPU seconds are a counter with fractions, which the `metrics` crate does not have.

use std::fmt::{Display, Write as _};
use std::fs;

/// Clock ticks per second in `/proc` (`USER_HZ`): 100 on every architecture that Rust's Linux targets run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the metrics of this process.
pub fn render(page: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").ok();
    let stat = stat.as_deref().and_then(Stat::parse);
    let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let stat = stat.as_ref();

    let cpu = stat.map(|stat| stat.cpu_ticks / TICKS_PER_SECOND);
    family(page, "process_cpu_seconds_total", "counter", "User and system CPU time.", cpu);
    let threads = stat.map(|stat| stat.threads);
    family(page, "process_threads", "gauge", "Operating system threads.", threads);
    let start = stat.zip(boot_time(&system)).map(|(stat, boot)| boot + stat.start_ticks / TICKS_PER_SECOND);
    family(page, "process_start_time_seconds", "gauge", "When the process began, since the Unix epoch.", start);
    let resident = kibibytes(&memory, "VmRSS:");
    family(page, "process_resident_memory_bytes", "gauge", "Memory in RAM.", resident);
    let virtual_memory = kibibytes(&memory, "VmSize:");
    family(page, "process_virtual_memory_bytes", "gauge", "Address space.", virtual_memory);
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    family(page, "process_open_fds", "gauge", "Open file descriptors.", open);
    family(page, "process_max_fds", "gauge", "Most file descriptors that may be open.", max_fds(&limits));
}

fn family(page: &mut String, name: &str, kind: &str, help: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        // Writing to a string does not fail.
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
    }
}

/// Fields of `/proc/self/stat`, see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: u64,
    /// Since boot.
    start_ticks: f64,
}

impl Stat {
    fn parse(line: &str) -> Option<Stat> {
        // The second field is the command in parentheses and may hold anything, parentheses too.
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered from 1 in the manual; `rest` begins with the third.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat {
            cpu_ticks: ticks(14)? + ticks(15)?,
            threads: fields.get(20 - 3)?.parse().ok()?,
            start_ticks: ticks(22)?,
        })
    }
}

fn boot_time(system: &str) -> Option<f64> {
    system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    values.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b (c)) S 1 7 7 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 3 0 12345 10000000 800 rest";
        assert_eq!(Stat::parse(line), Some(Stat { cpu_ticks: 200.0, threads: 3, start_ticks: 12345.0 }));
        assert_eq!(Stat::parse("7 (cut"), None);
        assert_eq!(Stat::parse("7 (short) S 1"), None);
    }

    #[test]
    fn memory_and_limits_are_read_by_name() {
        assert_eq!(kibibytes("VmSize:\t  2048 kB\nVmRSS:\t      12 kB\n", "VmRSS:"), Some(12_288));
        assert_eq!(kibibytes("VmSize:\t  2048 kB\n", "VmRSS:"), None);
        let limits = "Max processes   7 7 processes\nMax open files            1024                 524288 files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files   unlimited unlimited files\n"), None);
        assert_eq!(boot_time("cpu 1 2 3\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_all_seven() {
        let mut page = String::new();
        render(&mut page);
        assert_eq!(page.matches("# TYPE ").count(), 7, "{page}");
        let start = page.lines().find_map(|line| line.strip_prefix("process_start_time_seconds ")).unwrap();
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
            - start.parse::<f64>().unwrap();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    }
}
