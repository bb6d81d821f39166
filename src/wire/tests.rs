use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Deserialize;

use super::*;

// === Recorded frames; the Python decoder passes the same ===

#[derive(Deserialize)]
struct Recorded {
    max_frame: usize,
    frames: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    name: String,
    hex: String,
    direction: String,
    valid: bool,
    error: Option<String>,
    #[serde(flatten)]
    fields: Option<RecordedFields>,
}

#[derive(Deserialize)]
struct RecordedFields {
    kind: u8,
    flags: u8,
    id: u64,
    arg: u64,
    frame_name: String,
    json: String,
    buffers: Vec<String>,
    /// Generation, serial, and for each place index, offset and length.
    #[serde(default)]
    segment: Option<(u32, u64, Vec<[usize; 3]>)>,
}

impl Record {
    fn bytes(&self) -> Vec<u8> {
        from_hex(&self.hex)
    }

    fn direction(&self) -> Direction {
        match self.direction.as_str() {
            "to_python" => Direction::ToPython,
            "to_rust" => Direction::ToRust,
            other => panic!("direction {other}"),
        }
    }

    fn fields(&self) -> Plain {
        let fields = self.fields.as_ref().expect("a valid frame has fields");
        Plain {
            kind: Kind::from_wire(fields.kind).expect("a known kind"),
            flags: fields.flags,
            id: fields.id,
            arg: fields.arg,
            name: fields.frame_name.clone(),
            json: fields.json.clone().into_bytes(),
            buffers: fields.buffers.iter().map(|text| from_hex(text)).collect(),
            placed: fields.segment.clone().map(|(generation, serial, places)| {
                let place = |[index, offset, length]: [usize; 3]| Place { index, offset, length };
                let places = places.into_iter().map(place).collect();
                Placed { generation, serial, places }
            }),
        }
    }
}

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("../../tests/frames.json")).expect("readable records")
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex"))
        .collect()
}

/// A frame's fields, comparable.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plain {
    kind: Kind,
    flags: u8,
    id: u64,
    arg: u64,
    name: String,
    json: Vec<u8>,
    buffers: Vec<Vec<u8>>,
    placed: Option<Placed>,
}

impl From<&Frame> for Plain {
    fn from(frame: &Frame) -> Self {
        Self {
            kind: frame.kind,
            flags: frame.flags,
            id: frame.id,
            arg: frame.arg,
            name: frame.name().to_owned(),
            json: frame.json.to_vec(),
            buffers: frame.buffers.iter().map(|buffer| buffer.to_vec()).collect(),
            placed: frame.placed.as_deref().cloned(),
        }
    }
}

type Decoded = (Vec<Plain>, Result<(), ProtocolError>);

/// Decodes a whole stream that arrives in `pieces`.
fn decode<'a>(
    direction: Direction,
    limit: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Decoded {
    let mut decoder = Decoder::new(direction, limit);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(Plain::from(&frame)),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, decoder.finish())
}

/// The name that the records use for an error.
fn key(error: &ProtocolError) -> &'static str {
    match error {
        ProtocolError::UnknownKind(_) => "unknown_kind",
        ProtocolError::WrongDirection(_) => "wrong_direction",
        ProtocolError::ReservedFlags(_) => "reserved_flag",
        ProtocolError::TooLarge { .. } => "too_large",
        ProtocolError::NameTooLong { .. } => "name_too_long",
        ProtocolError::NameNotUtf8 => "name_not_utf8",
        ProtocolError::BadBufferTable { .. } => "bad_buffer_table",
        ProtocolError::Truncated { .. } => "truncated",
        ProtocolError::Version { .. }
        | ProtocolError::Segment { .. }
        | ProtocolError::Unexpected(_) => "not the decoder's",
    }
}

#[test]
fn recorded_frames_are_understood() {
    let Recorded { max_frame, frames } = recorded();
    assert!(frames.iter().any(|record| record.valid) && frames.iter().any(|record| !record.valid));
    for record in &frames {
        let bytes = record.bytes();
        for piece in [bytes.len(), 1, 7] {
            let (found, end) = decode(record.direction(), max_frame, bytes.chunks(piece));
            let context = format!("{}, in pieces of {piece}", record.name);
            if record.valid {
                assert_eq!(end, Ok(()), "{context}");
                assert_eq!(found, [record.fields()], "{context}");
            } else {
                let error = end.expect_err(&context);
                assert_eq!(Some(key(&error)), record.error.as_deref(), "{context}");
                assert_eq!(found, [], "{context}");
            }
        }
    }
}

#[test]
fn all_valid_frames_of_a_direction_make_one_stream() {
    let Recorded { max_frame, frames } = recorded();
    for direction in [Direction::ToPython, Direction::ToRust] {
        let valid =
            || frames.iter().filter(|record| record.valid && record.direction() == direction);
        let stream: Vec<u8> = valid().flat_map(Record::bytes).collect();
        let expected: Vec<Plain> = valid().map(Record::fields).collect();
        for piece in [stream.len(), 1, 23, 24, 25] {
            assert_eq!(
                decode(direction, max_frame, stream.chunks(piece)),
                (expected.clone(), Ok(()))
            );
        }
    }
}

#[test]
fn encoding_gives_the_recorded_bytes() {
    let Recorded { max_frame, frames } = recorded();
    let mut bare = 0;
    let mut built = 0;
    for record in frames.iter().filter(|record| record.valid) {
        let fields = record.fields();
        assert_eq!(encode(&fields), record.bytes(), "{}, by the tests' encoder", record.name);
        // Rust writes no table of no buffers.
        let no_table = fields.buffers.is_empty();
        if record.direction() == Direction::ToRust || (fields.flags != 0 && no_table) {
            continue;
        }
        let mut frame = FrameBuilder::new(fields.kind, &fields.name);
        frame.json().extend_from_slice(&fields.json);
        let mut buffers: Vec<Bytes> = fields.buffers.iter().cloned().map(Bytes::from).collect();
        for place in fields.placed.iter().flat_map(|placed| &placed.places) {
            buffers[place.index] = vec![0; place.length].into();
        }
        frame.beside(buffers);
        let message = frame.message(fields.id, fields.arg, max_frame).expect("within the limit");
        let mut message = message.renamed(fields.id);
        if let Some(placed) = &fields.placed {
            message = message.placed(placed);
        }
        let bytes: Vec<u8> = message.into_pieces().flatten().collect();
        assert_eq!(bytes, record.bytes(), "{}", record.name);
        built += 1;
        if record.bytes().len() == HEADER && fields.arg == 0 {
            assert_eq!(
                FrameBuilder::bare(fields.kind, fields.id),
                record.bytes(),
                "{}",
                record.name
            );
            bare += 1;
        }
    }
    assert!(built >= 9 && bare >= 2, "{built} built, {bare} bare");
}

// === Limits ===

#[test]
fn the_limit_is_inclusive_on_both_ways() {
    let frame = |json: usize| {
        let mut frame = FrameBuilder::new(Kind::Call, "name");
        frame.json().resize(HEADER + 4 + json, b'1');
        frame
    };
    let bytes = frame(96).finish(1, 0, 100).expect("100 bytes fit into 100");
    let (found, end) = decode(Direction::ToPython, 100, [&bytes[..]]);
    assert_eq!((found.len(), end), (1, Ok(())));
    let too_large = ProtocolError::TooLarge { length: 100, limit: 99 };
    assert_eq!(decode(Direction::ToPython, 99, [&bytes[..]]), (vec![], Err(too_large)));
    assert_eq!(frame(97).finish(1, 0, 100), Err(101));
}

#[test]
fn a_frame_over_the_limit_is_refused_by_its_header_and_reserves_nothing() {
    let mut decoder = Decoder::new(Direction::ToRust, 1 << 30);
    let mut header = FrameBuilder::bare(Kind::Result, 1);
    header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    decoder.buffer().extend_from_slice(&header);
    assert!(decoder.buffer().capacity() < 1 << 20);
    let error = decoder.next_frame().unwrap_err();
    assert_eq!(error, ProtocolError::TooLarge { length: u32::MAX as usize, limit: 1 << 30 });
    assert_eq!(
        error.to_string(),
        "frame of 4294967295 bytes is over the limit of 1073741824 bytes"
    );
}

#[test]
fn there_is_room_for_all_of_a_large_frame_once_its_header_is_there() {
    const LENGTH: usize = 3 << 20;
    let mut decoder = Decoder::new(Direction::ToRust, 1 << 24);
    let mut header = FrameBuilder::bare(Kind::Result, 1);
    header[..4].copy_from_slice(&(LENGTH as u32).to_le_bytes());
    decoder.buffer().extend_from_slice(&header);
    let buffer = decoder.buffer();
    assert!(buffer.capacity() - buffer.len() >= LENGTH);
    let before = buffer.as_ptr();
    buffer.extend_from_slice(&vec![b' '; LENGTH]);
    let frame = decoder.next_frame().unwrap().expect("a whole frame");
    assert_eq!(frame.json.len(), LENGTH);
    assert_eq!(frame.json.as_ptr(), before.wrapping_add(HEADER), "read in place");
}

#[test]
fn there_is_always_room_to_read_into() {
    let small = FrameBuilder::bare(Kind::Pong, 1);
    let mut decoder = Decoder::new(Direction::ToRust, 1 << 16);
    let mut held = Vec::new();
    for _ in 0..20_000 {
        let buffer = decoder.buffer();
        assert!(buffer.capacity() > buffer.len());
        buffer.extend_from_slice(&small);
        held.push(decoder.next_frame().unwrap().expect("a whole frame"));
    }
}

#[test]
fn a_truncated_stream_says_how_much_is_missing() {
    let mut frame = FrameBuilder::new(Kind::Call, "f");
    frame.json().extend_from_slice(b"[1,2]");
    let bytes = frame.finish(1, 0, 1024).unwrap();
    assert_eq!(decode(Direction::ToPython, 1024, []), (vec![], Ok(())));
    for length in 1..bytes.len() {
        let end = decode(Direction::ToPython, 1024, [&bytes[..length]]);
        let whole = if length < HEADER { HEADER } else { bytes.len() };
        let missing = whole - length;
        assert_eq!(end, (vec![], Err(ProtocolError::Truncated { missing })), "{length} bytes");
    }
}

#[test]
fn json_is_not_looked_at() {
    let mut frame = FrameBuilder::new(Kind::Call, "f");
    frame.json().extend_from_slice(b"\xff{");
    let bytes = frame.finish(1, 0, 1024).unwrap();
    let (found, end) = decode(Direction::ToPython, 1024, [&bytes[..]]);
    assert_eq!((&found[0].json[..], end), (&b"\xff{"[..], Ok(())));
}

#[test]
fn kinds_know_their_way() {
    let mut known = 0;
    for byte in 0..=u8::MAX {
        if let Some(kind) = Kind::from_wire(byte) {
            assert_eq!(kind as u8, byte);
            let to_python = kind.direction() == Direction::ToPython;
            assert_eq!(to_python, byte < 64, "{kind:?}");
            known += 1;
        }
    }
    assert_eq!(known, 18);
}

// === Properties ===

/// Encodes any frame, also those that only Python sends, and those with raw buffers.
fn encode(frame: &Plain) -> Vec<u8> {
    let mut body = frame.name.clone().into_bytes();
    let place = |index| {
        let mut places = frame.placed.iter().flat_map(|placed| &placed.places);
        places.find(|place| place.index == index)
    };
    if frame.flags & FLAG_BUFFERS != 0 {
        body.extend_from_slice(&(frame.buffers.len() as u32).to_le_bytes());
        body.extend_from_slice(&(frame.json.len() as u32).to_le_bytes());
        if let Some(placed) = &frame.placed {
            body.extend_from_slice(&placed.serial.to_le_bytes());
            body.extend_from_slice(&placed.generation.to_le_bytes());
            body.extend_from_slice(&[0; 4]);
        }
        for (index, buffer) in frame.buffers.iter().enumerate() {
            let length = place(index).map_or(buffer.len(), |place| place.length);
            body.extend_from_slice(&(length as u32).to_le_bytes());
            if frame.placed.is_some() {
                let unit = place(index).map_or(0, |place| place.offset / PLACE_UNIT + 1);
                body.extend_from_slice(&(unit as u32).to_le_bytes());
            }
        }
    }
    body.extend_from_slice(&frame.json);
    for (index, buffer) in frame.buffers.iter().enumerate() {
        if place(index).is_none() {
            body.resize(body.len().next_multiple_of(8), 0);
            body.extend_from_slice(buffer);
        }
    }
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&[frame.kind as u8, frame.flags]);
    bytes.extend_from_slice(&(frame.name.len() as u16).to_le_bytes());
    bytes.extend_from_slice(&frame.id.to_le_bytes());
    bytes.extend_from_slice(&frame.arg.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn frames() -> impl Strategy<Value = Plain> {
    let kinds = [Kind::Ready, Kind::Failed, Kind::Result, Kind::Error, Kind::Pong, Kind::Log];
    let bytes = |most: usize| prop::collection::vec(any::<u8>(), 0..most);
    // Some are larger than what is read ahead.
    let json = prop_oneof![
        9 => bytes(60),
        1 => (bytes(40), 1..5000usize).prop_map(|(bytes, times)| bytes.repeat(times)),
    ];
    let buffers = prop::option::of(prop::collection::vec(bytes(40), 0..4));
    let place = prop::option::of((0..1_000_usize, 0..100_000_usize));
    let segment = prop::option::of((any::<u32>(), any::<u64>(), prop::collection::vec(place, 4)));
    let fields = (prop::sample::select(kinds.to_vec()), any::<bool>(), any::<u64>(), any::<u64>());
    (fields, ".{0,20}", json, buffers, segment).prop_map(
        |((kind, recycle, id, arg), name, json, buffers, segment)| {
            let segment = segment.filter(|_| buffers.is_some());
            let flags = u8::from(recycle) * FLAG_RECYCLE
                + u8::from(buffers.is_some()) * FLAG_BUFFERS
                + u8::from(segment.is_some()) * FLAG_SEGMENT;
            let mut buffers = buffers.unwrap_or_default();
            let placed = segment.map(|(generation, serial, wanted)| {
                let mut places = Vec::new();
                for (index, (buffer, place)) in buffers.iter_mut().zip(wanted).enumerate() {
                    if let Some((unit, length)) = place {
                        buffer.clear();
                        places.push(Place { index, offset: unit * PLACE_UNIT, length });
                    }
                }
                Placed { generation, serial, places }
            });
            Plain { kind, flags, id, arg, name, json, buffers, placed }
        },
    )
}

/// Cuts a stream into pieces of these sizes, again and again.
fn cut<'a>(mut stream: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &size in sizes.iter().cycle() {
        let (piece, rest) = stream.split_at(size.min(stream.len()));
        pieces.push(piece);
        stream = rest;
        if stream.is_empty() {
            break;
        }
    }
    pieces
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => 1..60usize, 1 => 1..100_000usize], 1..6)
}

const LARGE: usize = 1 << 22;

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        sent in prop::collection::vec(frames(), 0..6),
        sizes in sizes(),
    ) {
        let stream: Vec<u8> = sent.iter().flat_map(encode).collect();
        let (found, end) = decode(Direction::ToRust, LARGE, cut(&stream, &sizes));
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn built_frames_come_back(
        name in ".{0,40}",
        json in prop::collection::vec(any::<u8>(), 0..200),
        id in any::<u64>(),
        arg in any::<u64>(),
    ) {
        let mut frame = FrameBuilder::new(Kind::Call, &name);
        frame.json().extend_from_slice(&json);
        let bytes = frame.finish(id, arg, LARGE).unwrap();
        let sent = Plain {
            kind: Kind::Call,
            flags: 0,
            id,
            arg,
            name,
            json,
            buffers: Vec::new(),
            placed: None,
        };
        prop_assert_eq!(&bytes, &encode(&sent));
        prop_assert_eq!(decode(Direction::ToPython, LARGE, [&bytes[..]]), (vec![sent], Ok(())));
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        sizes in sizes(),
    ) {
        let whole = decode(Direction::ToRust, 1024, [&bytes[..]]);
        prop_assert_eq!(decode(Direction::ToRust, 1024, cut(&bytes, &sizes)), whole);
    }

    /// Nearly right frames reach further than garbage does.
    #[test]
    fn damaged_frames_never_panic(
        sent in prop::collection::vec(frames(), 1..4),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        headers in any::<bool>(),
        kept in any::<Index>(),
        sizes in sizes(),
    ) {
        let mut stream: Vec<u8> = sent.iter().flat_map(encode).collect();
        for (place, byte) in &damage {
            let reach = if headers { HEADER + 20 } else { stream.len() };
            let place = place.index(reach.min(stream.len()));
            stream[place] = *byte;
        }
        stream.truncate(stream.len() - kept.index(stream.len()) / 4);
        let whole = decode(Direction::ToRust, 1 << 16, [&stream[..]]);
        prop_assert_eq!(decode(Direction::ToRust, 1 << 16, cut(&stream, &sizes)), whole);
    }
}
