use std::os::fd::AsRawFd;

use super::*;

#[test]
fn what_is_written_is_read_through_another_mapping() {
    let ours = Segment::create(10_000).unwrap();
    let theirs = Segment::adopt(ours.fd.try_clone().unwrap()).unwrap();
    assert!(ours.write(1234, b"abc") && ours.write(9_999, b"z") && ours.write(10_000, b""));
    let mut found = b"x".to_vec();
    assert!(theirs.read(1234, 3, &mut found) && theirs.read(9_999, 1, &mut found));
    assert_eq!(found, b"xabcz");
}

#[test]
fn nothing_is_copied_beyond_the_end() {
    let ours = Segment::create(4096).unwrap();
    let mut found = Vec::new();
    for (offset, length) in [(4096, 1), (4095, 2), (usize::MAX, 1), (1, usize::MAX), (0, 4097)] {
        assert!(!ours.read(offset, length, &mut found), "{offset} {length}");
    }
    assert!(!ours.write(4095, b"ab") && !ours.write(usize::MAX, b"ab"));
    assert_eq!(found.capacity(), 0);
    assert!(!Segment::adopt(ours.fd.try_clone().unwrap()).unwrap().write(0, b"a"), "read only");
}

#[test]
fn a_segment_cannot_be_resized_and_one_that_can_is_refused() {
    let ours = Segment::create(4096).unwrap();
    assert!(rustix::fs::ftruncate(&ours.fd, 0).is_err());
    assert!(rustix::fs::ftruncate(&ours.fd, 8192).is_err());
    let path = format!("/proc/self/fd/{}", ours.fd.as_raw_fd());
    assert!(std::fs::File::create(path).is_err(), "truncating by name");

    let unsealed = rustix::fs::memfd_create("unsealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 4096).unwrap();
    let half = unsealed.try_clone().unwrap();
    assert!(Segment::adopt(unsealed).is_err());
    rustix::fs::fcntl_add_seals(&half, SealFlags::GROW).unwrap();
    assert!(Segment::adopt(half).is_err());
    let empty = rustix::fs::memfd_create("empty", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::fcntl_add_seals(&empty, SIZE_SEALS).unwrap();
    assert!(Segment::adopt(empty).is_err());
    let (pipe, _write) = crate::sys::pipe(false).unwrap();
    assert!(Segment::adopt(pipe).is_err());
    assert!(Segment::adopt(tempfile::tempfile().unwrap().into()).is_err());
}
