use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::{Array, Buffer};

fn encoded<T: Serialize + ?Sized>(value: &T) -> (String, Vec<Bytes>) {
    let mut json = b"head".to_vec();
    let buffers = encode(&mut json, value).unwrap();
    (String::from_utf8(json.split_off(4)).unwrap(), buffers)
}

fn payload(json: &str, buffers: &[&'static [u8]]) -> Payload {
    let buffers = buffers.iter().map(|&buffer| Bytes::from_static(buffer)).collect();
    Payload { json: Bytes::copy_from_slice(json.as_bytes()), buffers }
}

fn buffer(bytes: &'static [u8]) -> Buffer {
    bytes.into()
}

const FIRST: &str = r#"{"\u0000snakepen":[0]}"#;
const SECOND: &str = r#"{"\u0000snakepen":[1]}"#;

#[test]
fn buffers_go_beside_the_json() {
    let array = Array::from_slice([2], &[1_u16, 2]).unwrap();
    let (json, buffers) = encoded(&(1, Some(buffer(b"ab")), [("x", &array)]));
    assert_eq!(json, format!(r#"[1,{FIRST},[["x",{{"\u0000snakepen":[1,"<u2",[2]]}}]]]"#));
    assert_eq!(buffers, [&b"ab"[..], &[1, 0, 2, 0]]);
    let payload = Payload { json: json.into(), buffers };
    type Found = (u8, Option<Buffer>, [(String, Array); 1]);
    let (_, found, [(_, same)]) = decode::<Found>(&payload).unwrap();
    assert_eq!((found.unwrap(), same), (buffer(b"ab"), array));
    assert_eq!(encoded(&"plain"), ("\"plain\"".to_owned(), vec![]));
}

#[test]
fn the_bytes_are_not_copied() {
    let data = Bytes::from(vec![7; 100]);
    let (json, buffers) = encoded(&Buffer::from(data.clone()));
    assert_eq!(buffers[0].as_ptr(), data.as_ptr());
    let found = decode::<Buffer>(&Payload { json: json.into(), buffers }).unwrap();
    assert_eq!(found.as_ptr(), data.as_ptr());
    assert_ne!(found.detached().as_ptr(), data.as_ptr());
}

#[test]
fn what_is_not_written_by_a_call_has_no_buffers() {
    let error = serde_json::to_value(buffer(b"x")).unwrap_err().to_string();
    assert!(error.contains("an argument of a call"), "{error}");
    let error = serde_json::from_str::<Buffer>(FIRST).unwrap_err().to_string();
    assert!(error.contains("the result of a call"), "{error}");
    // Also not after one, nor where another is encoded within.
    encoded(&buffer(b"x"));
    assert!(serde_json::to_value(buffer(b"x")).is_err());
    struct Within;
    impl Serialize for Within {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            assert_eq!(encoded(&buffer(b"within")).1, [&b"within"[..]]);
            buffer(b"around").serialize(serializer)
        }
    }
    assert_eq!(encoded(&Within).1, [&b"around"[..]]);
}

#[test]
fn a_value_that_panics_leaves_no_list_behind() {
    struct Panics;
    impl Serialize for Panics {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("as it does")
        }
    }
    let panicked = std::panic::catch_unwind(|| encode(&mut Vec::new(), &(buffer(b"x"), Panics)));
    assert!(panicked.is_err());
    assert!(serde_json::to_value(buffer(b"x")).is_err());
}

#[test]
fn no_value_of_a_users_is_taken_for_a_placeholder() {
    let forged = serde_json::json!({ "\0snakepen": [0] });
    let (json, buffers) = encoded(&forged);
    assert!(buffers.is_empty());
    assert_eq!(decode::<Value>(&Payload { json: json.into(), buffers }).unwrap(), forged);
    let raw = RawValue::from_string(FIRST.to_owned()).unwrap();
    let mut out = b"head".to_vec();
    for error in [
        encode(&mut out, &(&forged, buffer(b"x"))).unwrap_err(),
        encode(&mut out, &(buffer(b"x"), &raw)).unwrap_err(),
        encode(
            &mut out,
            &serde_json::json!({ "\0snakepen": 1 }).as_object().map(|map| (map, buffer(b"x"))),
        )
        .unwrap_err(),
    ] {
        assert!(error.to_string().contains("a map has its key"), "{error}");
        assert_eq!(out, b"head");
    }
    // In a string it is none.
    let (json, buffers) = encoded(&(FIRST, buffer(b"x"), "{\"\0snakepen\":"));
    let (text, found, _) =
        decode::<(String, Buffer, String)>(&Payload { json: json.into(), buffers }).unwrap();
    assert_eq!((text.as_str(), found), (FIRST, buffer(b"x")));
}

#[test]
fn placeholders_and_buffers_must_agree() {
    let cases = [
        ("null".to_owned(), "0 placeholders for 2"),
        (FIRST.to_owned(), "1 placeholders for 2"),
        (format!("[{FIRST},{FIRST}]"), "buffer 0 of 2 is one too many"),
        (format!("[{FIRST},{SECOND},{FIRST}]"), "one too many"),
        (format!("[{FIRST},{}]", SECOND.replace('1', "2")), "buffer 2 of 2 is one too many"),
        (format!("[{FIRST},{}]", SECOND.replace('1', "99999999999999999999999")), "too many"),
        (format!("[{FIRST},{}]", SECOND.replace("[1]", "7")), "one too many"),
    ];
    for (json, expected) in cases {
        for error in [
            decode::<Vec<Buffer>>(&payload(&json, &[b"a", b"b"])).unwrap_err(),
            decode::<serde::de::IgnoredAny>(&payload(&json, &[b"a", b"b"])).unwrap_err(),
        ] {
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
    let more = format!("[{FIRST},{}]", SECOND.replace('}', ",\"more\":1}"));
    assert!(decode::<Vec<Buffer>>(&payload(&more, &[b"a", b"b"])).is_err());
}

#[test]
fn a_buffer_may_be_skipped_and_is_never_read_as_data() {
    #[derive(Deserialize)]
    struct Part {
        b: Buffer,
    }
    let json = format!(r#"{{"a":{FIRST},"b":{SECOND}}}"#);
    let both = payload(&json, &[b"a", b"b"]);
    assert_eq!(decode::<Part>(&both).unwrap().b, buffer(b"b"));
    assert!(decode::<serde::de::IgnoredAny>(&both).is_ok());
    let error = decode::<Value>(&both).unwrap_err();
    assert!(
        error.contains("2 of the result's 2 buffers") && error.contains("snakepen::Buffer"),
        "{error}"
    );
    #[derive(Deserialize, Debug)]
    struct Mixed {
        #[serde(rename = "a")]
        _a: Value,
        #[serde(rename = "b")]
        _b: Buffer,
    }
    let error = decode::<Mixed>(&both).unwrap_err();
    assert!(error.contains("1 of the result's 2"), "{error}");
}

#[test]
fn serde_finds_buffers_in_flattened_and_untagged_values() {
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(untagged)]
    enum Any {
        Array(Array),
        Bytes(Buffer),
        Number(f64),
    }
    #[derive(Deserialize)]
    struct Inner {
        a: Any,
        b: Any,
    }
    #[derive(Deserialize)]
    struct Outer {
        #[serde(flatten)]
        inner: Inner,
        c: Any,
    }
    let json = format!(r#"{{"a":{{"\u0000snakepen":[0,"|u1",[2]]}},"b":{SECOND},"c":1.5}}"#);
    let Outer { inner: Inner { a, b }, c } = decode(&payload(&json, &[b"ab", b"b"])).unwrap();
    assert_eq!(a, Any::Array(Array::from_slice([2], b"ab").unwrap()));
    assert_eq!((b, c), (Any::Bytes(buffer(b"b")), Any::Number(1.5)));
}

#[test]
fn what_is_not_what_the_type_says_is_named() {
    let array = r#"{"\u0000snakepen":[0,"<f8",[1]]}"#;
    for (json, expected) in [
        (
            array,
            "expected bytes, this is an array of dtype <f8 and shape [1]: read it as `snakepen::Array`",
        ),
        ("[1]", "expected bytes (in Python"),
    ] {
        let buffers: &[&'static [u8]] = if json == array { &[&[0; 8]] } else { &[] };
        let error = decode::<Buffer>(&payload(json, buffers)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for (json, expected) in [
        (FIRST, "this is 8 bytes: read them as `snakepen::Buffer`"),
        (r#"{"\u0000snakepen":[0,">f8",[1]]}"#, ">f8 is big-endian"),
        (r#"{"\u0000snakepen":[0,"<f8",[3]]}"#, "8 bytes are no array of dtype <f8 and shape [3]"),
        (r#"{"\u0000snakepen":[0,"|O",[1]]}"#, "\"|O\" is none of"),
        (r#"{"\u0000snakepen":[0,"new"]}"#, "unknown kind \"new\""),
    ] {
        let error = decode::<Array>(&payload(json, &[&[0; 8]])).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_call_has_so_many_buffers_and_no_more() {
    let many = vec![Buffer::default(); 65_535];
    let (json, buffers) = encoded(&many);
    assert_eq!(buffers.len(), many.len());
    assert_eq!(decode::<Vec<Buffer>>(&Payload { json: json.into(), buffers }).unwrap(), many);
    let error = encode(&mut Vec::new(), &vec![Buffer::default(); 65_536]).unwrap_err();
    assert!(error.to_string().contains("at most 65535"), "{error}");
}
