//! System calls over arrays that are made once: many datagrams with one `recvmmsg` or `sendmmsg`, and a
//! `read` that writes into spare capacity; and two options of sockets that no crate has.
//!
//! The crates that wrap these make their headers anew for each batch, or want memory that is zeroed
//! before. What is written here before a call: lengths, and for sending addresses. Invariants: an array
//! never grows or moves once its elements are pointed at; a header's pointers lead to the elements of
//! the same index; what the kernel is given is as long as its length says.

#![expect(unsafe_code, reason = "no safe interface takes headers that are kept or memory that is not initialised")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use bytes::{BufMut, BytesMut};
use nix::libc;

use crate::time::Wall;

/// Datagrams that one system call reads or sends.
pub const BATCH: usize = 32;
/// Largest datagram that UDP can carry.
pub const LARGEST: usize = 65_535;

/// Room for what the kernel tells beside a datagram, or is told: its local address, a count of drops, when it came.
const CONTROL: usize = 96;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// The arrays that both directions have.
struct Slots {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

/// Where datagrams are read to.
pub struct Receiver {
    slots: Slots,
    buffer: Vec<u8>,
    /// Headers that the last call has written to.
    used: usize,
}

/// Where datagrams are sent from.
pub struct Sender {
    slots: Slots,
}

/// A datagram in the buffer of a [`Receiver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub bytes: &'a [u8],
    pub remote: SocketAddr,
    pub told: Told,
}

/// What the kernel tells beside what is read, where the socket asks it to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The local address that a datagram was sent to.
    pub local: Option<IpAddr>,
    /// Datagrams that the socket has had no room for since it was opened, modulo 2³².
    pub drops: Option<u32>,
    /// When the kernel took it, by the clock that people read; of a stream, the last segment of which anything was read.
    pub at: Option<Wall>,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    pub bytes: &'a [u8],
    /// `None` on a connected socket.
    pub remote: Option<SocketAddr>,
    /// The local address to send from, where the socket is bound to a wildcard.
    pub local: Option<IpAddr>,
}

// SAFETY: the pointers in `headers` and `parts` lead to memory that the same value owns (or, in `parts` of a
// `Sender`, are not used outside `send`), and nothing in it belongs to a thread.
unsafe impl Send for Slots {}

impl Slots {
    fn new() -> Slots {
        // SAFETY: all of these are plain C structures for which zeroes are a value.
        let (name, part, header) = unsafe {
            let header: libc::mmsghdr = MaybeUninit::zeroed().assume_init();
            let name: libc::sockaddr_storage = MaybeUninit::zeroed().assume_init();
            let part: libc::iovec = MaybeUninit::zeroed().assume_init();
            (name, part, header)
        };
        let mut slots = Slots {
            headers: vec![header; BATCH],
            parts: vec![part; BATCH],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
        };
        for (((header, part), name), control) in
            slots.headers.iter_mut().zip(&mut slots.parts).zip(&mut slots.names).zip(&mut slots.controls)
        {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        }
        slots
    }
}

impl Receiver {
    pub fn new() -> Receiver {
        let mut slots = Slots::new();
        let mut buffer = vec![0; BATCH * LARGEST];
        for (part, room) in slots.parts.iter_mut().zip(buffer.chunks_mut(LARGEST)) {
            part.iov_base = room.as_mut_ptr().cast();
            part.iov_len = room.len();
        }
        Receiver { slots, buffer, used: BATCH }
    }

    /// Reads what is there, at most [`BATCH`] datagrams, and returns how many.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where nothing is there.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for header in self.slots.headers.iter_mut().take(self.used) {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        let (headers, flags) = (self.slots.headers.as_mut_ptr(), libc::MSG_DONTWAIT);
        // SAFETY: BATCH headers are there, and each points at memory of the length that it names, owned by `self`.
        let read = unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as _, flags as _, std::ptr::null_mut()) };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error());
        // A call that fails writes to none.
        self.used = *read.as_ref().unwrap_or(&0);
        read
    }

    /// The datagrams of the last batch. One without a readable address is left out.
    pub fn datagrams(&self) -> impl Iterator<Item = Received<'_>> {
        let slots = self.slots.headers.iter().zip(&self.slots.names).zip(self.buffer.chunks(LARGEST));
        slots.take(self.used).filter_map(|((header, name), room)| {
            let bytes = room.get(..usize::try_from(header.msg_len).ok()?)?;
            Some(Received { bytes, remote: read_name(name)?, told: Told::by(&header.msg_hdr) })
        })
    }
}

impl Sender {
    pub fn new() -> Sender {
        Sender { slots: Slots::new() }
    }

    /// Sends the first [`BATCH`] datagrams and returns how many have gone. An error is that of the first one, and none
    /// has gone then.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where there is no room.
    pub fn send<'a>(&mut self, socket: &UdpSocket, batch: impl Iterator<Item = Outgoing<'a>>) -> io::Result<usize> {
        let Slots { headers, parts, names, controls } = &mut self.slots;
        let mut count = 0;
        for ((((header, part), name), control), one) in
            headers.iter_mut().zip(parts).zip(names).zip(controls).zip(batch)
        {
            part.iov_base = one.bytes.as_ptr().cast_mut().cast();
            part.iov_len = one.bytes.len();
            header.msg_hdr.msg_namelen = one.remote.map_or(0, |remote| write_name(name, remote)) as _;
            header.msg_hdr.msg_controllen = one.local.map_or(0, |local| write_source(control, local)) as _;
            count += 1;
        }
        let headers = self.slots.headers.as_mut_ptr();
        // SAFETY: `count` headers have been filled; what their parts point at is borrowed for `'a`, which is longer than
        // this call, and the kernel only reads it.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Reads what is there into the buffer's spare capacity, and when the last of it came. 0 is the end of the stream, as where
/// there is no capacity.
///
/// # Errors
/// The kernel's; `WouldBlock` where nothing is there.
pub fn read(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<(usize, Option<Wall>)> {
    let room = buffer.spare_capacity_mut();
    let mut control = Control([0; CONTROL]);
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: a plain C structure for which zeroes are a value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    // SAFETY: `room` may be written to for its whole length, and so may `control`.
    let read = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written that many bytes, and never more than there was room for.
    unsafe { buffer.advance_mut(read) };
    Ok((read, Told::by(&header).at))
}

/// Has the kernel ask a program to which of the sockets at one address (SO_REUSEPORT) a datagram goes: the result is the
/// socket's number, in the order in which they were bound.
///
/// # Errors
/// The kernel's; `ENOMEM` where it gives programs less memory than this one needs.
pub fn choose_by(socket: &UdpSocket, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let at = std::ptr::from_ref(&program).cast();
    // SAFETY: the kernel reads the structure and as many instructions as it names, which are borrowed for this call, and
    // checks them before it runs them.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, at, size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that a socket has had no room for since it was opened, modulo 2³², whoever had it then.
///
/// # Errors
/// The kernel's.
pub fn drops(socket: &UdpSocket) -> io::Result<u32> {
    let mut figures = [0_u32; libc::SK_MEMINFO_DROPS as usize + 1];
    let mut size = size_of_val(&figures) as libc::socklen_t;
    let at = figures.as_mut_ptr().cast();
    // SAFETY: the kernel writes no more bytes than `size` says, which are there and may have any value.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, at, &raw mut size) };
    let [.., drops] = figures;
    match done {
        0 if size as usize == size_of_val(&figures) => Ok(drops),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(name);
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: of this family it is a `sockaddr_in`, which is shorter and no more strictly aligned.
            let v4 = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let address = v4.sin_addr.s_addr.to_ne_bytes();
            Some(SocketAddr::V4(SocketAddrV4::new(address.into(), u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: likewise, a `sockaddr_in6`.
            let v6 = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let (address, port) = (v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port));
            Some(SocketAddr::V6(SocketAddrV6::new(address.into(), port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

fn write_name(name: &mut libc::sockaddr_storage, remote: SocketAddr) -> usize {
    let at = std::ptr::from_mut(name);
    // SAFETY: a `sockaddr_storage` has room and alignment for both, and they are plain C structures.
    unsafe {
        match remote {
            SocketAddr::V4(v4) => {
                let at = &mut *at.cast::<libc::sockaddr_in>();
                at.sin_family = libc::AF_INET as _;
                at.sin_port = v4.port().to_be();
                at.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let at = &mut *at.cast::<libc::sockaddr_in6>();
                at.sin6_family = libc::AF_INET6 as _;
                at.sin6_port = v6.port().to_be();
                at.sin6_addr.s6_addr = v6.ip().octets();
                at.sin6_flowinfo = v6.flowinfo();
                at.sin6_scope_id = v6.scope_id();
                size_of::<libc::sockaddr_in6>()
            }
        }
    }
}

impl Told {
    fn by(header: &libc::msghdr) -> Told {
        let mut told = Told::default();
        if header.msg_controllen == 0 {
            return told;
        }
        // SAFETY: `msg_control` and `msg_controllen` are what the kernel left of a whole buffer of ours, which these walk
        // without leaving it; data of the kinds read here is of the types that it is read as, wherever it stands.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(header);
            while let Some(control) = at.as_ref() {
                let data = libc::CMSG_DATA(at);
                match (control.cmsg_level, control.cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        told.local = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        told.local = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                    }
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let at = data.cast::<libc::timespec>().read_unaligned();
                        told.at = Some(Wall(at.tv_sec * 1_000_000 + at.tv_nsec / 1_000));
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => told.drops = Some(data.cast::<u32>().read_unaligned()),
                    _ => {}
                }
                at = libc::CMSG_NXTHDR(header, at);
            }
        }
        told
    }
}

/// Names the local address to send from; returns the length of the control message.
fn write_source(control: &mut Control, local: IpAddr) -> usize {
    match local {
        IpAddr::V4(address) => {
            let source = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
            let any = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: any };
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(address) => {
            let source = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
            write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn write_control<T: Copy>(control: &mut Control, level: i32, kind: i32, data: T) -> usize {
    const { assert!(size_of::<libc::cmsghdr>() + size_of::<T>() + 8 <= CONTROL) };
    let size = size_of::<T>() as libc::c_uint;
    let at = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the buffer is aligned for a header, and has room for one and the data, as asserted above.
    unsafe {
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(data);
        libc::CMSG_SPACE(size) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    fn socket(address: &str) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind(address).unwrap();
        let bound = socket.local_addr().unwrap();
        (socket, bound)
    }

    type Datagram = (Vec<u8>, SocketAddr, Option<IpAddr>, Option<u32>);

    fn to(bytes: &[u8], remote: SocketAddr) -> Outgoing<'_> {
        Outgoing { bytes, remote: Some(remote), local: None }
    }

    /// So many datagrams, however they come.
    fn receive(receiver: &mut Receiver, socket: &UdpSocket, count: usize) -> Vec<Datagram> {
        let mut all = Vec::new();
        while all.len() < count {
            // Waits, since the socket does.
            let _ = socket.peek(&mut [0]).unwrap();
            receiver.receive(socket).unwrap();
            all.extend(
                receiver.datagrams().map(|one| (one.bytes.to_vec(), one.remote, one.told.local, one.told.drops)),
            );
        }
        all
    }

    #[test]
    fn datagrams_go_and_come_in_order_over_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let ((near, from), (far, at)) = (socket(address), socket(address));
            let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
            for round in 0..3_u8 {
                let texts = (0..5_u8).map(|number| vec![number; 10 * usize::from(number + round)]).collect::<Vec<_>>();
                assert_eq!(sender.send(&near, texts.iter().map(|text| to(text, at))).unwrap(), 5);
                let received = receive(&mut receiver, &far, 2);
                assert!(
                    received.iter().all(|(_, remote, local, drops)| (*remote, *local, *drops) == (from, None, None))
                );
                assert_eq!(received.into_iter().map(|one| one.0).collect::<Vec<_>>(), texts);
            }
            assert_eq!(receiver.receive(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(receiver.datagrams().count(), 0);
        }
    }

    #[test]
    fn a_wildcard_socket_hears_by_which_address_and_answers_from_it() {
        let (near, from) = socket("127.0.0.1:0");
        let (far, at) = socket("0.0.0.0:0");
        setsockopt(&far, sockopt::Ipv4PacketInfo, &true).unwrap();
        let local = IpAddr::from([127, 0, 0, 7]);
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
        sender.send(&near, [to(b"hello", SocketAddr::new(local, at.port()))].into_iter()).unwrap();
        assert_eq!(receive(&mut receiver, &far, 1), [(b"hello".to_vec(), from, Some(local), None)]);
        sender.send(&far, [Outgoing { bytes: b"hi", remote: Some(from), local: Some(local) }].into_iter()).unwrap();
        assert_eq!(receive(&mut receiver, &near, 1), [(b"hi".to_vec(), SocketAddr::new(local, at.port()), None, None)]);

        let (near, from) = socket("[::1]:0");
        let (far, at) = socket("[::]:0");
        setsockopt(&far, sockopt::Ipv6RecvPacketInfo, &true).unwrap();
        let local = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
        sender.send(&near, [to(b"hello", SocketAddr::new(local, at.port()))].into_iter()).unwrap();
        assert_eq!(receive(&mut receiver, &far, 1), [(b"hello".to_vec(), from, Some(local), None)]);
        sender.send(&far, [Outgoing { bytes: b"hi", remote: Some(from), local: Some(local) }].into_iter()).unwrap();
        assert_eq!(receive(&mut receiver, &near, 1), [(b"hi".to_vec(), SocketAddr::new(local, at.port()), None, None)]);
    }

    #[test]
    fn a_connected_socket_needs_no_address() {
        let ((near, from), (far, at)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        near.connect(at).unwrap();
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
        let batch = [b"one", b"two"].map(|bytes| Outgoing { bytes, remote: None, local: None });
        assert_eq!(sender.send(&near, batch.into_iter()).unwrap(), 2);
        let received = receive(&mut receiver, &far, 2);
        assert_eq!(
            received.iter().map(|one| (&one.0[..], one.1)).collect::<Vec<_>>(),
            [(&b"one"[..], from), (b"two", from)]
        );
    }

    #[test]
    fn what_cannot_be_sent_stops_the_batch_and_its_error_is_told_when_it_is_the_first() {
        let ((near, _), (far, at)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let too_long = vec![0; LARGEST];
        let texts: [&[u8]; 4] = [b"one", &too_long, b"three", b"four"];
        let mut sender = Sender::new();
        assert_eq!(sender.send(&near, texts.iter().map(|text| to(text, at))).unwrap(), 1);
        let error = sender.send(&near, texts[1..].iter().map(|text| to(text, at))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(sender.send(&near, texts[2..].iter().map(|text| to(text, at))).unwrap(), 2);
        let received = receive(&mut Receiver::new(), &far, 3);
        assert_eq!(received.iter().map(|one| &one.0[..]).collect::<Vec<_>>(), [&b"one"[..], b"three", b"four"]);
    }

    #[test]
    fn the_kernel_counts_what_it_has_dropped() {
        let ((near, _), (far, at)) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        setsockopt(&far, sockopt::RxqOvfl, &1).unwrap();
        setsockopt(&far, sockopt::RcvBuf, &4_096).unwrap();
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
        let text = [0; 1_000];
        for _ in 0..4 {
            sender.send(&near, (0..BATCH).map(|_| to(&text, at))).unwrap();
        }
        let kept = receive(&mut receiver, &far, 1).len();
        assert!(kept < BATCH, "{kept}");
        sender.send(&near, [to(b"after", at)].into_iter()).unwrap();
        let after = receive(&mut receiver, &far, 1);
        assert_eq!(after[0].3, Some(u32::try_from(4 * BATCH - kept).unwrap()));
    }

    #[test]
    fn the_kernel_tells_when_the_bytes_of_a_stream_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        setsockopt(&far, sockopt::ReceiveTimestampns, &true).unwrap();
        let now = || Wall(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64);
        // It begins to take the time a moment after it was asked to.
        let mut first = None;
        while first.is_none() {
            near.write_all(b"x").unwrap();
            assert_eq!(far.peek(&mut [0]).unwrap(), 1);
            first = read(&far, &mut BytesMut::with_capacity(8)).unwrap().1;
        }
        let before = now();
        near.write_all(&[b'x'; 100_000]).unwrap();
        let (mut buffer, mut last, mut size) = (BytesMut::new(), before, 0);
        while size < 100_000 {
            // Waits until something is there.
            assert_eq!(far.peek(&mut [0]).unwrap(), 1);
            buffer.clear();
            buffer.reserve(3_000);
            let (read, at) = read(&far, &mut buffer).unwrap();
            let at = at.unwrap();
            assert!(at >= last && at <= now(), "{last:?} {at:?} {:?}", now());
            (last, size) = (at, size + read);
        }
    }

    #[test]
    fn a_stream_is_read_into_spare_capacity() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let mut buffer = BytesMut::from(&b"before "[..]);
        buffer.reserve(100);
        assert_eq!(read(&far, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        near.write_all(b"after").unwrap();
        assert_eq!(far.peek(&mut [0; 9]).unwrap(), 5);
        assert_eq!(read(&far, &mut buffer).unwrap(), (5, None));
        assert_eq!(buffer, &b"before after"[..]);
        drop(near);
        assert_eq!(far.peek(&mut [0; 9]).unwrap(), 0);
        assert_eq!(read(&far, &mut buffer).unwrap(), (0, None));
    }
}
