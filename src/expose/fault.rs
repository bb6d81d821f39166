//! Why a call from Python fails, as Python is told.

use std::any::Any;
use std::fmt::Display;

use crate::error::Error;

/// The longest message that is sent, in bytes.
const LONGEST: usize = 64 << 10;

/// The longest name of a type that is sent, in bytes.
const LONGEST_TYPE: usize = 60;

/// What an error is called that is a text, or in a box.
const TEXT: &str = "Error";

/// Why an exposed name did not do what Python asked of it: `snakepen.ActorError` there, with this type and message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{type_name}: {message}")]
pub struct InboundError {
    type_name: String,
    message: String,
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

impl InboundError {
    /// An error of this type, a word such as `UnknownSku` by which Python tells it from others, and with this message. At
    /// most 60 bytes of the one and 64 KiB of the other are sent, less of the message where the pool's frames are smaller.
    pub fn new(type_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_name: type_name.into(), message: message.into() }
    }

    /// The type of the error.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// An error of the user's. Its type's name is what Python has, but where the error is one of ours, boxed or not, or
    /// has no type to speak of.
    pub(super) fn of<E: Display + 'static>(error: &E) -> Self {
        let known: &dyn Any = error;
        if let Some(boxed) = known.downcast_ref::<Boxed>() {
            if let Some(error) = boxed.downcast_ref::<Self>() {
                return error.clone();
            }
            if let Some(error) = boxed.downcast_ref::<Error>() {
                return Self::new(variant(error), error.to_string());
            }
        }
        if let Some(error) = known.downcast_ref::<Self>() {
            return error.clone();
        }
        if let Some(error) = known.downcast_ref::<Error>() {
            return Self::new(variant(error), error.to_string());
        }
        let text = known.is::<String>() || known.is::<&str>() || known.is::<Boxed>();
        let type_name =
            if text { TEXT.to_owned() } else { without_paths(std::any::type_name::<E>()) };
        Self::new(type_name, error.to_string())
    }

    /// A panic with this payload.
    pub(crate) fn panic(name: &str, payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Self::new("Panic", format!("`{name}` panicked: {text}"))
    }

    /// The error in so few bytes that a frame of `limit` holds it, whatever is in it.
    pub(crate) fn within(mut self, limit: usize) -> Self {
        shorten(&mut self.type_name, LONGEST_TYPE);
        // JSON takes up to six bytes for one.
        shorten(&mut self.message, LONGEST.min(limit / 16));
        self
    }
}

fn shorten(text: &mut String, limit: usize) {
    const MARK: &str = " […]";
    if text.len() > limit {
        let mut end = limit - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
}

/// `a::b::Kind<c::D>` is `Kind<D>`.
fn without_paths(name: &str) -> String {
    let ends = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    let last = |part| str::rsplit_once(part, "::").map_or(part, |(_, last)| last);
    name.split_inclusive(ends).map(last).collect()
}

fn variant(error: &Error) -> &'static str {
    match error {
        Error::Config { .. } => "Config",
        Error::NameTaken { .. } => "NameTaken",
        Error::Start(_) => "Start",
        Error::Encode { .. } => "Encode",
        Error::TooLarge { .. } => "TooLarge",
        Error::Saturated { .. } => "Saturated",
        Error::UnknownHandler { .. } => "UnknownHandler",
        Error::Python { .. } => "Python",
        Error::BadResult { .. } => "BadResult",
        Error::Decode { .. } => "Decode",
        Error::Timeout { .. } => "Timeout",
        Error::Cancelled { .. } => "Cancelled",
        Error::CpuTime { .. } => "CpuTime",
        Error::WorkerDied(_) => "WorkerDied",
        Error::CircuitOpen { .. } => "CircuitOpen",
        Error::WorkerBusy { .. } => "WorkerBusy",
        Error::WouldDeadlock { .. } => "WouldDeadlock",
        Error::Restarted { .. } => "Restarted",
        Error::Closed { .. } => "Closed",
        Error::NoSuchWorker { .. } => "NoSuchWorker",
        Error::Session(_) => "Session",
        Error::Array(_) => "Array",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_without_their_paths() {
        assert_eq!(without_paths("alloc::string::String"), "String");
        assert_eq!(without_paths("&str"), "&str");
        assert_eq!(without_paths("a::Kind<b::c::D, e::F>"), "Kind<D, F>");
        assert_eq!(without_paths(std::any::type_name::<Boxed>()), "Box<dyn Error + Send + Sync>");
    }

    #[test]
    fn errors_of_ours_are_told_by_their_variant_also_in_a_box() {
        let error = Error::Closed { pool: "p".to_owned() };
        assert_eq!(InboundError::of(&error).type_name(), "Closed");
        assert_eq!(InboundError::of(&Boxed::from(error)).type_name(), "Closed");
        let own = InboundError::new("UnknownSku", "no `x`");
        assert_eq!(InboundError::of(&own), own);
        assert_eq!(InboundError::of(&Boxed::from(own.clone())), own);
        assert_eq!(InboundError::of(&"text"), InboundError::new("Error", "text"));
    }

    #[test]
    fn the_smallest_frame_holds_any_error() {
        let error = InboundError::new("\u{1}".repeat(1 << 20), "\u{1}é".repeat(1 << 20));
        let InboundError { type_name, message } = error.within(1024);
        let json = serde_json::json!({ "type": type_name, "message": message }).to_string();
        assert!(json.len() + "error:actor".len() <= 1024, "{}", json.len());
        assert!(message.ends_with(" […]"), "{message}");
    }
}
