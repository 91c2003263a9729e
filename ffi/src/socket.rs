//! Sockets: descriptors passed to another process, gathered sends, receives into rings. No unsafe.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};

use crate::MachineError;

/// Descriptors that one message may carry.
pub const MAX_FDS: usize = 4;

/// What trying to move bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// That many bytes, at least one.
    Bytes(usize),
    /// None now.
    WouldBlock,
    /// The peer ended the stream.
    End,
    /// The socket failed with this errno.
    Failed(i32),
}

fn moved(result: rustix::io::Result<usize>) -> Moved {
    match result {
        Ok(0) => Moved::End,
        Ok(bytes) => Moved::Bytes(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Moved::WouldBlock,
        Err(errno) => Moved::Failed(errno.raw_os_error()),
    }
}

/// Sends as much of `parts` as the socket takes, never waiting; a closed peer is an error, not a signal.
#[inline]
pub fn send_gather(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Moved {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    if let [part] = parts {
        // No list for the kernel to read and check.
        return moved(rustix::net::send(socket, part, flags));
    }
    moved(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags))
}

/// Receives into `room`, never waiting.
#[inline]
pub fn receive(socket: BorrowedFd<'_>, room: &mut [u8]) -> Moved {
    moved(rustix::net::recv(socket, room, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes))
}

/// Sends one message with descriptors.
///
/// # Errors
/// [`MachineError`], also when the message would not go whole.
///
/// # Panics
/// With more than [`MAX_FDS`] descriptors.
pub fn send_fds(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), MachineError> {
    assert!(fds.len() <= MAX_FDS);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|errno| MachineError::new("sendmsg", "descriptors for the peer", errno))?;
    if sent != bytes.len() {
        return Err(MachineError::new("sendmsg", "a whole message", Errno::MSGSIZE));
    }
    Ok(())
}

/// Receives bytes and the descriptors that came with them; zero bytes is the end. The socket's read timeout holds.
///
/// # Errors
/// [`MachineError`] with the socket's errno (EAGAIN after its timeout).
pub fn receive_fds(socket: &UnixStream, room: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), MachineError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|errno| MachineError::new("recvmsg", "descriptors from the peer", errno))?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok((message.bytes, fds))
}

/// Prepares a connected TCP socket for a lane: no Nagle delay, non-blocking, fixed buffers (their automatic
/// sizing costs 20-30 % of the rate). The kernel may cap the buffers; that is not an error.
///
/// # Errors
/// [`MachineError`]: the socket is no longer usable.
pub fn tune_tcp(stream: &TcpStream, buffer_bytes: usize) -> Result<(), MachineError> {
    let object = || "a lane's TCP socket".to_owned();
    sockopt::set_tcp_nodelay(stream, true).map_err(|e| MachineError::new("setsockopt", object(), e))?;
    let _ = sockopt::set_socket_send_buffer_size(stream, buffer_bytes);
    let _ = sockopt::set_socket_recv_buffer_size(stream, buffer_bytes);
    rustix::io::ioctl_fionbio(stream, true).map_err(|e| MachineError::new("ioctl(FIONBIO)", object(), e))
}

/// Bounds how long a dead TCP peer stays unnoticed while bytes to it are unacknowledged or nothing is sent.
pub fn bound_silence(stream: &TcpStream, limit: Duration) {
    // Hints: where the kernel refuses them, its own longer limits hold.
    let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let _ = sockopt::set_tcp_user_timeout(stream, millis);
    let _ = sockopt::set_tcp_keepidle(stream, limit.max(Duration::from_secs(1)));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1));
    let _ = sockopt::set_tcp_keepcnt(stream, 3);
    let _ = sockopt::set_socket_keepalive(stream, true);
}

/// Waits until a socket has something to read or accept; false when `patience` ran out first.
///
/// # Errors
/// [`MachineError`]: memory ran out.
pub fn wait_readable(socket: impl AsFd, patience: Duration) -> Result<bool, MachineError> {
    let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
    match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(MachineError::new("poll", "a socket", errno)),
    }
}

/// Ends both directions of a socket; what is queued in the kernel is dropped or delivered by it alone.
pub fn shutdown(socket: impl AsFd) {
    // It fails only when the connection is gone, which is what was asked for.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_descriptor_sent_over_a_socket_works_at_the_other_end() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut inner, outer) = UnixStream::pair().unwrap();
        send_fds(&here, b"take this", &[outer.as_fd()]).unwrap();
        let mut room = [0; 32];
        let (bytes, mut fds) = receive_fds(&there, &mut room).unwrap();
        assert_eq!(&room[..bytes], b"take this");
        let mut received = UnixStream::from(fds.pop().unwrap());
        inner.write_all(b"x").unwrap();
        let mut byte = [0];
        received.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn moving_bytes_tells_empty_closed_and_moved_apart() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut room = [0; 8];
        assert_eq!(receive(here.as_fd(), &mut room), Moved::WouldBlock);
        assert_eq!(send_gather(there.as_fd(), &[IoSlice::new(b"ab"), IoSlice::new(b"c")]), Moved::Bytes(3));
        assert_eq!(receive(here.as_fd(), &mut room), Moved::Bytes(3));
        drop(there);
        assert_eq!(receive(here.as_fd(), &mut room), Moved::End);
        assert!(matches!(send_gather(here.as_fd(), &[IoSlice::new(b"d")]), Moved::Failed(_)));
    }
}
