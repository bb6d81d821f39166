use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use serde::ser::Error as _;
use serde_json::Value;

use super::*;

/// Encodes behind bytes that are not ours, to see them survive.
fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, EncodeError> {
    let mut out = b"[{\"old\":[".to_vec();
    let result = to_writer(&mut out, value);
    let written = out.strip_prefix(b"[{\"old\":[").expect("old bytes kept");
    assert!(result.is_ok() || written.is_empty(), "output left behind");
    result.map(|()| String::from_utf8(written.to_vec()).expect("UTF-8"))
}

#[track_caller]
fn same<T: Serialize + Debug + ?Sized>(value: &T) {
    let expected = serde_json::to_string(value).expect("serde_json takes it");
    assert_eq!(encode(value).as_ref(), Ok(&expected), "{value:?}");
}

#[track_caller]
fn refused<T: Serialize + ?Sized>(value: &T, path: &str, message: &str) {
    let error = encode(value).expect_err("should be refused");
    assert_eq!((&*error.path, &*error.message), (path, message));
}

#[derive(Debug, Serialize)]
struct Unit;

#[derive(Debug, Serialize)]
struct Newtype<T>(T);

#[derive(Debug, Serialize)]
struct Pair<T>(u8, T);

#[derive(Debug, Serialize)]
struct Fields<T> {
    a: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<u8>,
    b: T,
}

#[derive(Debug, Serialize)]
enum Outer<T> {
    Unit,
    Newtype(T),
    Tuple(u8, T),
    Struct {
        #[serde(skip_serializing_if = "Option::is_none")]
        gone: Option<u8>,
        x: T,
    },
}

#[derive(Debug, Serialize)]
#[serde(tag = "t")]
enum Internal<T> {
    Unit,
    Newtype(Newtype<BTreeMap<String, T>>),
    Struct { x: T },
}

#[derive(Debug, Serialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent<T> {
    Unit,
    Newtype(T),
    Tuple(u8, T),
    Struct { x: T },
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Untagged<T> {
    Unit,
    Newtype(T),
    Struct { x: T },
}

#[derive(Debug, Serialize)]
struct Flat<T> {
    first: u8,
    #[serde(flatten)]
    rest: T,
}

fn fields<T>(b: T) -> Fields<T> {
    Fields { a: 1, gone: None, b }
}

fn flat<T>(rest: T) -> Flat<T> {
    Flat { first: 1, rest }
}

fn map<T>(key: &str, value: T) -> BTreeMap<String, T> {
    BTreeMap::from([(key.to_owned(), value)])
}

/// Every shape serde's derive makes, around one value.
fn shapes<T: Serialize + Clone + Debug>(v: &T, mut each: impl FnMut(&str, &dyn Shape)) {
    let v = || v.clone();
    each("$", &v());
    each("$", &Some(v()));
    each("$", &Newtype(Some(Box::new(v()))));
    each("$[1]", &Pair(1, v()));
    each("$[2]", &(1, "a", v()));
    each("$[3]", &vec![None, None, None, Some(v())]);
    each("$.b", &fields(v()));
    each("$.k", &map("k", v()));
    each("$.Newtype", &Outer::Newtype(v()));
    each("$.Tuple[1]", &Outer::Tuple(1, v()));
    each("$.Struct.x", &Outer::Struct { gone: None, x: v() });
    each("$.k", &Internal::Newtype(Newtype(map("k", v()))));
    each("$.x", &Internal::Struct { x: v() });
    each("$.c", &Adjacent::Newtype(v()));
    each("$.c[1]", &Adjacent::Tuple(1, v()));
    each("$.c.x", &Adjacent::Struct { x: v() });
    each("$", &Untagged::Newtype(v()));
    each("$.x", &Untagged::Struct { x: v() });
    each("$.b", &flat(fields(v())));
    each("$.k", &flat(map("k", v())));
    each("$.b", &flat(flat(Some(fields(v())))));
    each("$.Newtype", &flat(Outer::Newtype(v())));
    each("$.Tuple[1]", &flat(Outer::Tuple(1, v())));
    each("$.Struct.x", &flat(Outer::Struct { gone: None, x: v() }));
    each("$.x", &flat(Internal::Struct { x: v() }));
    each("$.c[1]", &flat(Adjacent::Tuple(1, v())));
    each("$.Tuple[1].k[1].b", &Outer::Tuple(0, map("k", ([fields(1)], fields(v())))));
}

/// `Serialize` is not object safe, and `shapes` needs a list of many types.
trait Shape: Debug {
    fn same(&self);
    fn refused(&self, path: &str, message: &str);
}

impl<T: Serialize + Debug> Shape for T {
    fn same(&self) {
        same(self);
    }

    fn refused(&self, path: &str, message: &str) {
        refused(self, path, message);
    }
}

/// A map by `serialize_key` and `serialize_value`, of unknown length.
#[derive(Debug)]
struct KeyThenValue<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for KeyThenValue<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in &self.0 {
            map.serialize_key(key)?;
            map.serialize_value(value)?;
        }
        map.end()
    }
}

#[derive(Debug)]
struct Bytes(&'static [u8]);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Says what it can see of the serializer: `collect_str` and the flag.
#[derive(Debug)]
struct Curious;

impl Serialize for Curious {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let readable = serializer.is_human_readable();
        serializer.collect_str(&format_args!("readable \"{readable}\"\n\u{1}é"))
    }
}

/// Refuses by itself after so many elements.
struct Fails(usize);

impl Serialize for Fails {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for i in 0..self.0 {
            seq.serialize_element(&i)?;
        }
        Err(S::Error::custom("no more"))
    }
}

/// The field and struct name `serde_json` knows its raw values by: with its feature on, the text goes out as it
/// is; with it off, an object does. Either way the wrapper must not make a difference.
#[derive(Debug, Serialize)]
#[serde(rename = "$serde_json::private::RawValue")]
struct Raw {
    #[serde(rename = "$serde_json::private::RawValue")]
    text: &'static str,
}

/// The same for numbers of arbitrary precision.
#[derive(Debug, Serialize)]
#[serde(rename = "$serde_json::private::Number")]
struct Number {
    #[serde(rename = "$serde_json::private::Number")]
    text: &'static str,
}

#[test]
fn scalars_are_as_serde_json_writes_them() {
    same(&());
    same(&Unit);
    same(&true);
    same(&'"');
    same("quote \" back \\ line \n nul \0 é 😀 \u{2028}");
    same(&(i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN));
    same(&(u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX));
    same(&[0.0, -0.0, 0.1, 1e300, 5e-324, f64::MAX, f64::MIN]);
    same(&[0.0, -0.0, 0.1, 1e30, 1e-45, f32::MAX, f32::MIN]);
    same(&None::<f64>);
    same(&Bytes(b"\x00ab\xff"));
    same(&Curious);
    same(&std::net::Ipv6Addr::LOCALHOST);
    same(&std::time::Duration::from_millis(1500));
}

#[test]
fn compounds_are_as_serde_json_writes_them() {
    shapes(&1.5, |_, shape| shape.same());
    shapes(&vec![Some(0.1_f32)], |_, shape| shape.same());
    shapes(&"a\"b", |_, shape| shape.same());
    same(&[Outer::<u8>::Unit]);
    same(&[Internal::<u8>::Unit]);
    same(&[Adjacent::<u8>::Unit]);
    same(&[Untagged::<u8>::Unit]);
    same(&flat(Outer::Struct { gone: Some(1), x: 2 }));
    same(&(Vec::<u8>::new(), [(); 0], map::<u8>("", 1)));
    same(&BTreeMap::<String, u8>::new());
    same(&[Bytes(b""), Bytes(b"a")]);
}

#[test]
fn keys_are_as_serde_json_writes_them() {
    same(&KeyThenValue::<u8, u8>(vec![]));
    same(&KeyThenValue(vec![("a", 1), ("b\"", 2)]));
    same(&KeyThenValue(vec![(1_u128, Some(1.5)), (2, None)]));
    same(&KeyThenValue(vec![(true, 1)]));
    same(&KeyThenValue(vec![('c', 1)]));
    same(&KeyThenValue(vec![(1.5, 1)]));
    same(&KeyThenValue(vec![(Newtype("n"), 1)]));
    same(&KeyThenValue(vec![(Outer::<u8>::Unit, 1)]));
    same(&KeyThenValue(vec![(Curious, 1)]));
}

#[test]
fn struct_names_reach_serde_json() {
    let raw = Raw { text: "[1, {}]" };
    let number = Number { text: "1e400" };
    same(&raw);
    same(&number);
    same(&fields([map("k", Some(raw))]));
    same(&fields([map("k", Some(number))]));
}

#[test]
fn non_finite_floats_are_refused_in_every_shape() {
    const NAN: &str = "NaN is not a JSON number (send null or a string instead)";
    const INF: &str = "inf is not a JSON number (send null or a string instead)";
    const NEG: &str = "-inf is not a JSON number (send null or a string instead)";
    shapes(&f64::NAN, |path, shape| shape.refused(path, NAN));
    shapes(&f64::INFINITY, |path, shape| shape.refused(path, INF));
    shapes(&f64::NEG_INFINITY, |path, shape| shape.refused(path, NEG));
    shapes(&f32::NAN, |path, shape| shape.refused(path, NAN));
    shapes(&f32::INFINITY, |path, shape| shape.refused(path, INF));
    shapes(&f32::NEG_INFINITY, |path, shape| shape.refused(path, NEG));
    shapes(&-f64::NAN, |path, shape| shape.refused(path, NAN));
}

#[test]
fn error_paths() {
    const NAN: &str = "NaN is not a JSON number (send null or a string instead)";
    const KEY: &str = "key must be a string";
    let nan = f64::NAN;

    refused(&nan, "$", NAN);
    refused(&fields([0.0, 1.0, 2.0, nan]), "$.b[3]", NAN);
    refused(&[[vec![], vec![0.0]], [vec![nan], vec![]]], "$[1][0][0]", NAN);
    refused(&KeyThenValue(vec![("a", 0.0), ("b", nan)]), "$.b", NAN);
    // Brackets, quotes and commas in earlier strings are not structure.
    refused(&("[{\",\\", map("x]", "}\\\""), nan), "$[2]", NAN);
    refused(&(Bytes(b"12"), Raw { text: "[1, {}]" }, nan), "$[2]", NAN);
    // Names that are no identifiers.
    refused(&map("", nan), r#"$[""]"#, NAN);
    refused(&map("a b", nan), r#"$["a b"]"#, NAN);
    refused(&map("1", nan), r#"$["1"]"#, NAN);
    refused(&map("_1", nan), "$._1", NAN);
    refused(&map("é", nan), r#"$["é"]"#, NAN);
    refused(&map("a\"]\n\\", [nan]), r#"$["a\"]\n\\"][0]"#, NAN);
    refused(&KeyThenValue(vec![(7, [nan])]), r#"$["7"][0]"#, NAN);
    // Only the first fault is told.
    refused(
        &(0.0, f32::NEG_INFINITY, nan),
        "$[1]",
        "-inf is not a JSON number (send null or a string instead)",
    );

    // What serde_json refuses: the path is that of the map.
    let bad_keys = KeyThenValue(vec![([0], 0)]);
    refused(&bad_keys, "$", KEY);
    refused(&fields((0, &bad_keys)), "$.b[1]", KEY);
    refused(&map("m", KeyThenValue(vec![((), 0)])), "$.m", KEY);
    refused(&map("m", KeyThenValue(vec![(Some("k"), 0), (None, 0)])), "$.m", KEY);
    refused(&map("m", KeyThenValue(vec![(Bytes(b"k"), 0)])), "$.m", KEY);
    let float_keys = KeyThenValue(vec![(1.0, 0), (nan, 0)]);
    let error = encode(&map("m", float_keys)).expect_err("should be refused");
    assert_eq!(error.path, "$.m");

    // What a value refuses itself.
    refused(&fields(Fails(2)), "$.b", "no more");
    refused(&fields(Fails(0)), "$.b[0]", "no more");
    let cell = std::cell::RefCell::new(1);
    let _held = cell.borrow_mut();
    refused(&fields(map("c", (0, &cell))), "$.b.c[1]", "already mutably borrowed");
}

#[test]
fn error_reads_well() {
    let error = encode(&fields([f64::INFINITY])).expect_err("should be refused");
    assert_eq!(
        error.to_string(),
        "inf is not a JSON number (send null or a string instead) at $.b[0]"
    );
    let _: &(dyn std::error::Error + Send + Sync) = &error;
}

#[test]
fn a_value_is_asked_once() {
    struct Counts(Cell<u32>);

    impl Serialize for Counts {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.set(self.0.get() + 1);
            serializer.serialize_f64(f64::NAN)
        }
    }

    let counts = Counts(Cell::new(0));
    refused(&[&counts], "$[0]", "NaN is not a JSON number (send null or a string instead)");
    assert_eq!(counts.0.get(), 1);
}

#[test]
fn a_buffer_can_be_used_on() {
    let mut out = Vec::new();
    assert!(to_writer(&mut out, &(1, f64::NAN)).is_err());
    assert!(to_writer(&mut out, &(1, 2)).is_ok());
    assert!(to_writer(&mut out, &[f32::NAN]).is_err());
    assert!(to_writer(&mut out, "x").is_ok());
    assert_eq!(out, b"[1,2]\"x\"");
}

/// Anything at all must do, as the text may come from a lying `Serialize`.
#[test]
fn path_of_broken_text() {
    let cases = [
        ("", "$"),
        ("]", "$"),
        (",,", "$"),
        ("[],", "$"),
        ("{\"a", "$"),
        ("[\"a\\", "$"),
        ("{\"a\":[\"", "$.a"),
        ("{\"a\":1,", "$"),
        ("{\"a\":1", "$"),
        ("[1,[2]", "$"),
    ];
    for (text, path) in cases {
        assert_eq!(path_to_end(text.as_bytes()), path, "{text}");
    }
}

/// A tree that can hold what `Value` cannot.
#[derive(Clone, Debug)]
enum Node {
    Float(f64),
    Single(f32),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    Variant(Box<Node>),
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Float(v) => serializer.serialize_f64(*v),
            Node::Single(v) => serializer.serialize_some(v),
            Node::Text(v) => serializer.collect_str(v),
            Node::List(v) => serializer.collect_seq(v),
            Node::Map(v) => serializer.collect_map(v.iter().map(|(k, v)| (k, v))),
            Node::Variant(v) => serializer.serialize_newtype_variant("Node", 0, "Variant", v),
        }
    }
}

impl Node {
    /// The path to the first non-finite float, found by walking the tree.
    fn fault(&self) -> Option<String> {
        match self {
            Node::Float(v) => (!v.is_finite()).then(String::new),
            Node::Single(v) => (!v.is_finite()).then(String::new),
            Node::Text(_) => None,
            Node::List(v) => {
                let mut each = v.iter().enumerate();
                each.find_map(|(i, node)| Some(format!("[{i}]{}", node.fault()?)))
            }
            Node::Map(v) => v.iter().find_map(|(name, node)| {
                let rest = node.fault()?;
                let mut chars = name.chars();
                let plain = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
                    && chars.all(|c| c == '_' || c.is_ascii_alphanumeric());
                Some(if plain {
                    format!(".{name}{rest}")
                } else {
                    format!("[{}]{rest}", Value::from(name.as_str()))
                })
            }),
            Node::Variant(v) => Some(format!(".Variant{}", v.fault()?)),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_]{0,3}", r#"[\]\[{}",:\\a\n]{0,4}"#, any::<String>()]
}

fn node() -> impl Strategy<Value = Node> {
    use proptest::num::{f32, f64};
    let leaf = prop_oneof![
        4 => (f64::NORMAL | f64::SUBNORMAL | f64::ZERO).prop_map(Node::Float),
        1 => f64::ANY.prop_map(Node::Float),
        1 => (f64::INFINITE | f64::QUIET_NAN).prop_map(Node::Float),
        1 => f32::ANY.prop_map(Node::Single),
        4 => name().prop_map(Node::Text),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Node::List),
            prop::collection::vec((name(), inner.clone()), 0..6).prop_map(Node::Map),
            inner.prop_map(|node| Node::Variant(Box::new(node))),
        ]
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        name().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 128, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..8).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_is_as_serde_json_writes_it(value in value()) {
        let expected = serde_json::to_string(&value).expect("serde_json takes it");
        prop_assert_eq!(encode(&value), Ok(expected));
    }

    #[test]
    fn the_first_fault_is_found(node in node()) {
        match (encode(&node), node.fault()) {
            (Ok(text), None) => {
                let expected = serde_json::to_string(&node).expect("serde_json takes it");
                prop_assert_eq!(text, expected);
            }
            (Err(error), Some(path)) => prop_assert_eq!(error.path, format!("${path}")),
            (result, fault) => prop_assert!(false, "{result:?} but {fault:?}"),
        }
    }

    #[test]
    fn no_text_upsets_the_path(text in prop::collection::vec(any::<u8>(), 0..64), json in r#"[\]\[{}",:\\a]{0,32}"#) {
        prop_assert!(path_to_end(&text).starts_with('$'));
        prop_assert!(path_to_end(json.as_bytes()).starts_with('$'));
    }
}
