//! What a RESULT or an ERROR says to the caller.

use std::sync::Arc;

use serde::Deserialize;

use crate::codec::Payload;
use crate::error::Error;
use crate::request::{Answer, Request};
use crate::wire::{Frame, Kind, ProtocolError};

/// What a RESULT or an ERROR says to the caller.
pub(super) fn answer(
    request: &Request,
    kind: Kind,
    frame: &Frame,
) -> Result<Answer, ProtocolError> {
    #[derive(Deserialize)]
    struct Unknown {
        name: String,
        known: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Bad {
        #[serde(rename = "type")]
        type_name: String,
        path: String,
        message: String,
    }
    #[derive(Deserialize)]
    struct Arguments {
        message: String,
    }
    fn parse<'a, T: Deserialize<'a>>(frame: &'a Frame) -> Result<T, ProtocolError> {
        serde_json::from_slice(&frame.json).map_err(|error| {
            ProtocolError::Unexpected(format!("{} that says {error}", frame.name()))
        })
    }
    if kind == Kind::Result && request.side.has_items() && !frame.json.is_empty() {
        return Err(ProtocolError::Unexpected("a result beside the items of a stream".to_owned()));
    }
    if kind == Kind::Result {
        return Ok(Ok(Payload { json: frame.json.clone(), buffers: frame.buffers.clone() }));
    }
    if !frame.buffers.is_empty() {
        return Err(ProtocolError::Unexpected("raw buffers beside an error".to_owned()));
    }
    let handler = request.handler().to_owned();
    Ok(Err(match frame.name() {
        "exception" => Error::Python { handler, exception: Arc::new(parse(frame)?) },
        "unknown_handler" => {
            let Unknown { name, known } = parse(frame)?;
            Error::UnknownHandler { name, known }
        }
        "result" => {
            let Bad { type_name, path, message } = parse(frame)?;
            Error::BadResult { handler, type_name, path, message }
        }
        "arguments" => {
            let Arguments { message } = parse(frame)?;
            Error::Encode { handler, message }
        }
        status => return Err(ProtocolError::Unexpected(format!("error of status {status:?}"))),
    }))
}
