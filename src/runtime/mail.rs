//! What goes from thread to thread: to each worker by a queue and a bell.
//!
//! Who posts rings only where the worker sleeps or is about to. Invariant: a worker looks into its queue
//! after it has said that it sleeps, and whoever posts looks whether it sleeps after having posted; so
//! one of the two sees the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::{Registry, Waker};
use siphasher::sip::SipHasher13;

use super::worker::Worker;
use crate::endpoint::{Input, Owner, Transmit};
use crate::flow::Hop;
use crate::time::Mono;
use crate::transport::{Accepted, Names, Source, Steering};

/// Something to be done by a worker, between two batches.
pub(super) type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// What comes to a worker from other threads.
pub(super) enum Mail {
    /// In the order in which they were read, and since when the first has waited to be taken.
    Inputs(Vec<Input>, Mono),
    /// To be sent by a connection of this worker.
    Transmit {
        transmit: Box<Transmit>,
        from: usize,
    },
    Failed(Owner),
    Accepted(Accepted),
    Job(Job),
}

/// Where to send mail to a worker.
#[derive(Clone)]
pub(super) struct Address {
    queue: Sender<Mail>,
    bell: Arc<Bell>,
}

/// A worker's own end.
pub(super) struct Inbox {
    queue: Receiver<Mail>,
    bell: Arc<Bell>,
    next: Option<Mail>,
    /// There was nothing before the worker waited, and the bell has not rung since.
    is_empty: bool,
}

struct Bell {
    is_asleep: AtomicBool,
    waker: Waker,
    /// Inputs and messages to send in the queue.
    waiting: AtomicUsize,
}

/// Inputs and messages to send that may wait for a worker; beyond it what was read for it is dropped, as the kernel would if
/// nobody read, and what it should send has failed.
const MOST_WAITING: usize = 16 * 1024;

/// The queue of a worker.
///
/// # Errors
/// Where the system gives no means of waking.
pub(super) fn mailbox(registry: &Registry) -> io::Result<(Address, Inbox)> {
    let waker = Waker::new(registry, Source::Mail.token())?;
    let bell = Arc::new(Bell { is_asleep: AtomicBool::new(false), waker, waiting: AtomicUsize::new(0) });
    let (sender, queue) = channel();
    Ok((Address { queue: sender, bell: bell.clone() }, Inbox { queue, bell, next: None, is_empty: false }))
}

/// What counts towards [`MOST_WAITING`].
fn weight(mail: &Mail) -> usize {
    match mail {
        Mail::Inputs(inputs, _) => inputs.len(),
        Mail::Transmit { .. } => 1,
        Mail::Failed(_) | Mail::Accepted(_) | Mail::Job(_) => 0,
    }
}

impl Address {
    /// Posts inputs, if there is room for them. Returns what is left: nothing, or all.
    fn post_inputs(&self, inputs: Vec<Input>, since: Mono) -> Option<Vec<Input>> {
        if self.has_no_room_for(inputs.len()) {
            return Some(inputs);
        }
        // Only at the end a worker is gone before another.
        self.post(Mail::Inputs(inputs, since));
        None
    }

    fn has_no_room_for(&self, more: usize) -> bool {
        self.bell.waiting.load(Ordering::Relaxed) + more > MOST_WAITING
    }

    /// False where the worker has ended.
    pub fn post(&self, mail: Mail) -> bool {
        self.bell.waiting.fetch_add(weight(&mail), Ordering::Relaxed);
        if self.queue.send(mail).is_err() {
            return false;
        }
        fence(Ordering::SeqCst);
        if self.bell.is_asleep.load(Ordering::Relaxed)
            && self.bell.is_asleep.swap(false, Ordering::Relaxed)
            && let Err(error) = self.bell.waker.wake()
        {
            tracing::error!(%error, "a worker cannot be woken");
        }
        true
    }
}

impl Inbox {
    /// To be called before the worker waits. False where there is mail: it must not.
    pub fn may_sleep(&mut self) -> bool {
        if self.next.is_some() {
            return false;
        }
        self.bell.is_asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.next = self.queue.try_recv().ok();
        self.is_empty = self.next.is_none();
        self.is_empty
    }

    /// To be called when the worker has waited.
    pub fn wake(&self) {
        self.bell.is_asleep.store(false, Ordering::Relaxed);
    }

    /// The bell has rung.
    pub fn ring(&mut self) {
        self.is_empty = false;
    }

    /// What comes without the bell, while the worker does not wait, is taken the next time.
    pub fn take(&mut self) -> Option<Mail> {
        if std::mem::take(&mut self.is_empty) {
            return None;
        }
        let mail = self.next.take().or_else(|| self.queue.try_recv().ok());
        if let Some(mail) = &mail {
            self.bell.waiting.fetch_sub(weight(mail), Ordering::Relaxed);
        }
        mail
    }
}

/// Whose a call or a connection is, and what waits to be handed over.
pub(super) struct Post {
    pub me: usize,
    addresses: Vec<Address>,
    /// Of calls.
    steering: Steering,
    /// Of peers.
    hasher: SipHasher13,
    names: Names,
    /// By worker.
    inputs: Vec<Vec<Input>>,
    has_inputs: bool,
    /// Emptied, with room.
    spare: Vec<Vec<Input>>,
    /// Inputs that were dropped because another worker had too many.
    pub dropped: u64,
    /// Messages that were put aside for another worker.
    pub handed_over: u64,
}

impl Post {
    pub fn new(me: usize, addresses: Vec<Address>, key: &[u8; 16]) -> Post {
        let workers = addresses.len();
        Post {
            me,
            steering: Steering::new(key),
            hasher: SipHasher13::new_with_key(key),
            names: Names::new(me, workers),
            inputs: addresses.iter().map(|_| Vec::new()).collect(),
            has_inputs: false,
            spare: Vec::new(),
            dropped: 0,
            handed_over: 0,
            addresses,
        }
    }

    /// The worker that treats the calls with this Call-ID.
    pub fn of_call(&self, call_id: &[u8]) -> usize {
        if self.addresses.len() == 1 { 0 } else { self.place(self.steering.share(call_id).into()) }
    }

    /// The worker whose connections lead to this peer.
    pub fn of_peer(&self, remote: std::net::SocketAddr) -> usize {
        if self.addresses.len() == 1 {
            return 0;
        }
        let mut name = [0; 18];
        let (ip, port) = name.split_at_mut(16);
        ip.copy_from_slice(&match remote.ip() {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        });
        port.copy_from_slice(&remote.port().to_be_bytes());
        self.place(self.hasher.hash(&name))
    }

    /// The worker that has the hop's connection, where it names one, else that of its peer.
    pub fn of_hop(&self, hop: &Hop) -> usize {
        hop.connection.map_or_else(|| self.of_peer(hop.remote), |id| self.names.owner(id))
    }

    /// Puts an input aside for another worker.
    pub fn put_aside(&mut self, worker: usize, input: Input) {
        if let Some(inputs) = self.inputs.get_mut(worker) {
            self.handed_over += u64::from(matches!(input, Input::Message { .. }));
            inputs.push(input);
            self.has_inputs = true;
        }
    }

    /// Hands over what was put aside: one letter for each worker. What is in it has waited since then.
    pub fn hand_over(&mut self, since: Mono) {
        if !std::mem::take(&mut self.has_inputs) {
            return;
        }
        for (inputs, address) in self.inputs.iter_mut().zip(&self.addresses) {
            if !inputs.is_empty() {
                let next = self.spare.pop().unwrap_or_default();
                if let Some(mut refused) = address.post_inputs(std::mem::replace(inputs, next), since) {
                    self.dropped += refused.len() as u64;
                    refused.clear();
                    *inputs = refused;
                }
            }
        }
    }

    /// What a letter was in serves for another.
    pub fn give_back(&mut self, emptied: Vec<Input>) {
        if self.spare.len() < self.addresses.len() {
            self.spare.push(emptied);
        }
    }

    /// False where the worker has ended, or a message to send does not fit into its queue.
    pub fn send(&self, worker: usize, mail: Mail) -> bool {
        let fits = |address: &&Address| !matches!(mail, Mail::Transmit { .. }) || !address.has_no_room_for(1);
        self.addresses.get(worker).filter(fits).is_some_and(|address| address.post(mail))
    }

    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.addresses.len()).filter(move |worker| *worker != me)
    }

    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash % self.addresses.len() as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    fn worker() -> (Poll, Address, Inbox) {
        let poll = Poll::new().unwrap();
        let (address, inbox) = mailbox(poll.registry()).unwrap();
        (poll, address, inbox)
    }

    fn is_woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn only_who_sleeps_is_woken_and_only_once() {
        let (mut poll, address, mut inbox) = worker();
        assert!(address.post(Mail::Failed(Owner(1))));
        assert!(!is_woken(&mut poll), "nobody sleeps");
        assert!(!inbox.may_sleep(), "there is mail");
        inbox.wake();
        assert!(matches!(inbox.take(), Some(Mail::Failed(Owner(1)))));
        assert!(inbox.may_sleep());
        assert!(address.post(Mail::Failed(Owner(2))));
        assert!(is_woken(&mut poll));
        inbox.ring();
        assert!(address.post(Mail::Failed(Owner(3))));
        assert!(!is_woken(&mut poll), "it has been woken already");
        assert!(matches!(inbox.take(), Some(Mail::Failed(Owner(2)))));
        assert!(matches!(inbox.take(), Some(Mail::Failed(Owner(3)))));
        assert!(inbox.take().is_none());
    }

    #[test]
    fn what_comes_without_the_bell_is_found_the_next_time() {
        let (_poll, address, mut inbox) = worker();
        for waits_again in [false, true] {
            assert!(inbox.may_sleep());
            inbox.wake();
            assert!(address.post(Mail::Failed(Owner(1))));
            assert!(inbox.take().is_none(), "it was empty, and nobody has rung");
            assert!(!waits_again || !inbox.may_sleep(), "there is mail");
            assert!(matches!(inbox.take(), Some(Mail::Failed(Owner(1)))));
            assert!(inbox.take().is_none());
        }
    }

    #[test]
    fn a_worker_that_has_too_many_inputs_gets_no_more_of_them() {
        let (_poll, address, mut inbox) = worker();
        let mut post = Post::new(1, vec![address.clone(), address], &[7; 16]);
        let mut hand_over = |count: usize| {
            for _ in 0..count {
                post.put_aside(0, Input::Timeout);
            }
            post.hand_over(Mono(1));
            post.dropped
        };
        assert_eq!(hand_over(MOST_WAITING - 1), 0);
        assert_eq!(hand_over(2), 2);
        assert_eq!(hand_over(1), 2);
        assert!(matches!(inbox.take(), Some(Mail::Inputs(inputs, _)) if inputs.len() == MOST_WAITING - 1));
        assert_eq!(hand_over(5), 2, "there is room again");
    }

    #[test]
    fn a_call_and_a_peer_belong_to_the_same_worker_for_everybody() {
        let addresses = (0..3).map(|_| worker().1).collect::<Vec<_>>();
        let posts = (0..3).map(|me| Post::new(me, addresses.clone(), &[7; 16])).collect::<Vec<_>>();
        let mut counts = [0; 3];
        for number in 0..300_u32 {
            let call_id = format!("{number}@example.net");
            let owner = posts[0].of_call(call_id.as_bytes());
            counts[owner] += 1;
            assert!(posts.iter().all(|post| post.of_call(call_id.as_bytes()) == owner));
            let peer = std::net::SocketAddr::from(([192, 0, 2, 1], number as u16));
            assert!(posts.iter().all(|post| post.of_peer(peer) == posts[0].of_peer(peer)));
        }
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    }
}
