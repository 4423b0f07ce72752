//! The root of the core: owns transactions and calls, routes input, drains what they put out.
//!
//! # The contract with the shell
//!
//! 1. Give it inputs with [`Endpoint::handle`], messages also with [`Endpoint::handle_message`] (one reading of the clocks
//!    for a whole batch is fine), or commands with the methods that are named after them.
//! 2. After each batch take outputs with [`Endpoint::poll_output`] until it says [`Output::Idle`].
//! 3. Come back with [`Input::Timeout`] at the deadline that `Idle` named, or with an input before.
//!
//! Time never goes backwards between calls.

mod ask;
mod incoming;
mod keep;
mod restore;
mod wire;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::arena::{Arena, Handle};
use crate::call::{CallTable, CallTimer, Places, Redirects};
use crate::chunks::Chunks;
use crate::event::{CallState, Event};
use crate::flow::{Direction, Flow, Hop, Side};
use crate::kept::Store;
use crate::overload::{Lag, Overload, Sources};
use crate::path::Paths;
use crate::policy::{Policy, ServerId};
use crate::proxy::route::Ourselves;
use crate::proxy::{OwnTexts, Pending, ServerHealth, route};
use crate::sip::{Edits, Message, Name, Rejected};
use crate::stats::Stats;
use crate::table::Table;
use crate::time::{Mono, Now};
use crate::transaction::Keyring;
use crate::transaction::client::{ClientTx, Fallback};
use crate::transaction::server::ServerTx;
use crate::wheel::Wheel;

pub(crate) use incoming::{Arrival, RETRY_SOON, reason_fields, reason_lines, routes_behind};
use keep::Keeping;
pub use keep::{Record, RecordOf};
use restore::LostPeers;
pub use restore::{Restored, Stored};
pub(crate) use wire::{MANY, Reply, Request};

/// What the world does to the core.
#[expect(clippy::large_enum_variant, reason = "made and taken once per message: a box would cost an allocation")]
#[derive(Debug)]
pub enum Input {
    Message {
        flow: Flow,
        message: Message,
    },
    /// A message that could not be read.
    Broken {
        flow: Flow,
        rejected: Box<Rejected>,
    },
    /// A [`Transmit`] with this owner could not be sent: connection refused, timed out, reset; datagram too long.
    TransportFailed {
        owner: Owner,
    },
    /// ICMP says that `remote` is not there (RFC 3261 §18.4); `quoted` is the start of our datagram.
    Unreachable {
        remote: SocketAddr,
        quoted: Bytes,
    },
    /// A connection is there, which may be of a peer that calls wait for after a restart.
    Connected {
        flow: Flow,
    },
    /// The answer to [`Output::Resolve`]: empty where the name has no address.
    Resolved {
        query: QueryId,
        addresses: Vec<IpAddr>,
    },
    /// The deadline of [`Output::Idle`] has come.
    Timeout,
    /// How long what comes next has waited.
    Lag(Lag),
    /// For new calls; an open call keeps the one it has.
    Policy(Arc<Policy>),
    /// No new calls from here on: 503 with Retry-After.
    Drain,
    /// Forced exit: every open call ends as `shutdown`, unanswered ones with CANCEL and 503.
    Stop,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    Transmit(Transmit),
    /// Look up the A and AAAA records of a name.
    Resolve {
        query: QueryId,
        name: Box<str>,
    },
    Event(Event),
    /// A change to keep, where it outlives the process: before anything is sent that comes after it.
    Record(Record),
    /// Something that an operator may want to read, at most once per source and second.
    Notice(Notice),
    /// Nothing until then; `None`: nothing at all.
    Idle {
        deadline: Option<Mono>,
    },
}

/// Names who must hear that a transmit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u64);

/// Names a name resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(pub u64);

/// Bytes to send.
#[derive(Debug)]
pub struct Transmit {
    pub hop: Hop,
    pub bytes: Bytes,
    /// The side that stands at the hop: a connection opened for this message belongs to it.
    pub side: Side,
    /// `None`: nobody waits; a failure is only counted.
    pub owner: Option<Owner>,
    /// Longest time to wait for a connection to open; `None`: the shell's own limit.
    pub connect_timeout: Option<Duration>,
}

/// Route values at the top that are ours.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnRoutes {
    pub count: usize,
    /// Others follow.
    pub has_more: bool,
}

/// What is worth a line in the log, rate-limited by the shell.
#[derive(Clone, Debug)]
pub struct Notice {
    pub remote: SocketAddr,
    /// A closed label: `stranger`, `malformed`, …
    pub reason: &'static str,
    pub detail: &'static str,
}

/// Which calls a list shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub state: Option<CallState>,
    pub direction: Option<Direction>,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No open call by that name.
    NotFound,
    /// Several open calls by that name; use the call_uid.
    Ambiguous(usize),
    /// The call is not one for which this can be done; the reason, for people.
    Conflict(&'static str),
}

/// What the shell chose at start-up.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Keys the hashes that make branches, tags and ids; random unless it is kept across restarts.
    pub key: [u8; 16],
}

/// The core of one worker.
pub struct Endpoint {
    pub(crate) now: Now,
    pub(crate) policy: Arc<Policy>,
    pub(crate) keys: Keyring,
    pub(crate) wheel: Wheel<Deadline>,
    pub(crate) server_txs: Table<ServerTx>,
    pub(crate) client_txs: Table<ClientTx>,
    /// What transactions and calls hold on to of messages, and the ways that their messages go.
    pub(crate) store: Store,
    pub(crate) paths: Paths,
    pub(crate) places: Places,
    /// What we write of ourselves.
    pub(crate) own: OwnTexts,
    pub(crate) calls: CallTable,
    pub(crate) redirects: Redirects,
    /// Requests that wait for a name to be resolved.
    pub(crate) pending: Arena<Pending>,
    /// Large requests without a transaction that may have to go by UDP after all.
    pub(crate) loose: Arena<(Fallback, Side)>,
    pub(crate) health: HashMap<ServerId, ServerHealth, FixedState>,
    /// Next hops that took no TCP connection for a large request, and until when that is remembered.
    pub(crate) udp_only: HashMap<SocketAddr, Mono, FixedState>,
    /// Addresses at which messages have come to wildcard listeners: they are ours.
    pub(crate) seen: SmallVec<[IpAddr; 4]>,
    pub(crate) stats: Stats,
    pub(crate) is_draining: bool,
    /// Makes each call's uid its own.
    pub(crate) serial: u64,
    /// When the next new call fits the limit of calls per second.
    pub(crate) next_call_at: Mono,
    pub(crate) overload: Overload,
    pub(crate) sources: Sources,
    /// Messages that leave are written here and split off.
    pub(crate) out: Chunks,
    pub(crate) edits: Edits,
    /// Header lines that are put together.
    pub(crate) lines: Vec<u8>,
    /// Lines of events are written here and split off.
    pub(crate) told: Chunks,
    pub(crate) keeping: Keeping,
    /// Peers whose connections ended with the process before.
    pub(crate) lost: LostPeers,
    outputs: VecDeque<Output>,
}

/// What the messages that follow an input need at most, but for large ones.
const ROOM: usize = 8 * 1024;
/// Addresses of our own that are remembered: a machine has fewer.
const MOST_SEEN: usize = 64;

/// What a timer of the wheel is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    /// Timer G.
    ServerRetransmit(Handle),
    /// Timers H, I, J, L: the server transaction ends.
    ServerEnd(Handle),
    /// A request that is no INVITE has waited long enough for a 100 (RFC 4320 §4.1).
    ServerTrying(Handle),
    /// Timers A, E; or B, C, D, F, K, M: the client transaction ends, or has waited long enough.
    Client(Handle),
    Call(Handle, CallTimer),
    /// A large request without a transaction is on its way, or lost.
    Loose(Handle),
    /// A name has not been resolved in time.
    Pending(Handle),
}

impl Endpoint {
    pub fn new(now: Now, seed: Seed, policy: Arc<Policy>) -> Endpoint {
        let mut endpoint = Endpoint {
            now,
            keys: Keyring::new(&seed.key),
            wheel: Wheel::new(now.mono),
            server_txs: Table::default(),
            client_txs: Table::default(),
            store: Store::default(),
            paths: Paths::default(),
            places: Places::default(),
            own: OwnTexts::default(),
            calls: CallTable::default(),
            redirects: Redirects::default(),
            pending: Arena::default(),
            loose: Arena::default(),
            health: HashMap::default(),
            udp_only: HashMap::default(),
            seen: SmallVec::new(),
            stats: Stats::default(),
            is_draining: false,
            serial: 0,
            next_call_at: now.mono,
            overload: Overload::default(),
            sources: Sources::default(),
            out: Chunks::default(),
            edits: Edits::default(),
            lines: Vec::new(),
            told: Chunks::default(),
            keeping: Keeping::default(),
            lost: LostPeers::default(),
            outputs: VecDeque::new(),
            policy,
        };
        endpoint.stats.on_policy(&endpoint.policy);
        endpoint
    }

    /// Takes one input. Follow it, or a batch of them, with [`Endpoint::poll_output`].
    pub fn handle(&mut self, now: Now, input: Input) {
        if let Input::Message { flow, message } = &input {
            return self.handle_message(now, flow, message);
        }
        self.advance(now);
        self.out.make_room(ROOM);
        match input {
            Input::Message { .. } => {}
            Input::Broken { flow, rejected } => self.on_broken(flow, &rejected),
            Input::TransportFailed { owner } => self.on_transport_failed(owner),
            Input::Unreachable { remote, quoted } => self.on_unreachable(remote, &quoted),
            Input::Connected { ref flow } => self.on_connected(flow),
            Input::Resolved { query, addresses } => self.on_resolved(query, &addresses),
            Input::Timeout => {}
            Input::Lag(lag) => self.overload.observe(self.now.mono, lag, self.policy.limits.overload_delay),
            Input::Policy(policy) => {
                self.stats.on_policy(&policy);
                self.policy = policy;
            }
            Input::Drain => self.is_draining = true,
            Input::Stop => self.stop_all(),
        }
    }

    /// [`Input::Message`] where it stands: a message is large to be moved.
    pub fn handle_message(&mut self, now: Now, flow: &Flow, message: &Message) {
        self.advance(now);
        self.out.make_room(ROOM);
        self.see(flow.local.ip().to_canonical());
        self.on_connected(flow);
        if message.is_request() { self.on_request(flow, message) } else { self.on_response(flow, message) }
    }

    /// The next thing to do.
    ///
    /// Records and events come first, so that what they tell is kept before anything is sent.
    pub fn poll_output(&mut self) -> Output {
        self.put_out_changes();
        if let Some(output) = self.keeping.pop() {
            return output;
        }
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        Output::Idle { deadline: self.wheel.next_deadline() }
    }

    /// Whether it matters that messages wait for a short time only.
    pub fn watches_lag(&self) -> bool {
        self.overload.is_watching()
    }

    /// Whether a new call that this source offers counts as one of too many. The offer is noted.
    pub fn is_too_much(&mut self, source: IpAddr, now: Mono) -> bool {
        self.is_overloaded() && !self.sources.offer(source, now)
    }

    /// Whether new calls are refused because messages wait too long.
    pub fn is_overloaded(&self) -> bool {
        self.overload.is_shedding()
    }

    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The sidecar as a message at `local` may name it.
    pub(crate) fn ourselves<'a>(&'a self, policy: &'a Policy, local: SocketAddr) -> Ourselves<'a> {
        Ourselves { policy, local, seen: &self.seen }
    }

    /// Whether a Route or Record-Route value names us, in a message that came to or leaves from `local`.
    pub(crate) fn is_our_route(&self, value: &[u8], local: SocketAddr) -> bool {
        self.own.is_ours(value) || self.ourselves(&self.policy, local).are_named_by(route::address(value))
    }

    /// Which Route values at the top are ours.
    pub(crate) fn own_routes(&self, message: &Message, local: SocketAddr) -> OwnRoutes {
        let mut own = OwnRoutes::default();
        for element in message.elements(Name::Route) {
            if !self.is_our_route(message.bytes(element.range), local) {
                own.has_more = true;
                break;
            }
            own.count += 1;
        }
        own
    }

    fn see(&mut self, address: IpAddr) {
        if !self.seen.contains(&address) && self.seen.len() < MOST_SEEN {
            self.seen.push(address);
        }
    }

    /// Fires whatever was due by `now`.
    pub(crate) fn advance(&mut self, now: Now) {
        self.now = now;
        while let Some(deadline) = self.wheel.pop(now.mono) {
            self.on_deadline(deadline);
        }
    }

    pub(crate) fn push(&mut self, output: Output) {
        match output {
            Output::Event(_) => self.keeping.push(output),
            output => self.outputs.push_back(output),
        }
    }

    fn on_deadline(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::ServerRetransmit(tx) => self.on_server_retransmit(tx),
            Deadline::ServerEnd(tx) => self.remove_server(tx),
            Deadline::ServerTrying(tx) => self.on_server_trying(tx),
            Deadline::Client(tx) => self.on_client_deadline(tx),
            Deadline::Call(call, timer) => self.on_call_timer(call, timer),
            Deadline::Loose(loose) => {
                self.loose.remove(loose);
            }
            Deadline::Pending(pending) => self.on_unresolved(pending),
        }
    }

    fn stop_all(&mut self) {
        self.is_draining = true;
        let open = self.calls.iter().map(|(handle, _)| handle).collect::<Vec<_>>();
        for call in open {
            self.shut_down_call(call);
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("calls", &self.calls.len())
            .field("server_transactions", &self.server_txs.len())
            .field("client_transactions", &self.client_txs.len())
            .field("timers", &self.wheel.len())
            .finish_non_exhaustive()
    }
}
