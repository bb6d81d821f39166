//! Arrow tables that travel beside the JSON.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::placeholder::{Came, What, put, take};

/// A table in the arguments or the result of a call (feature `arrow`). May stand wherever a [`Buffer`](crate::Buffer) may.
///
/// It travels as a stream of Arrow's IPC format. In Python it is a `pyarrow.Table` over the memory that came; a result may have
/// for it whatever has the PyCapsule interface (`__arrow_c_stream__` or `__arrow_c_array__`), such as tables of pyarrow, Polars
/// and pandas. Both need pyarrow in the worker's environment.
#[derive(Clone, Debug, PartialEq)]
pub struct ArrowTable {
    /// What its columns are.
    pub schema: SchemaRef,
    /// Its rows, in pieces of this schema.
    pub batches: Vec<RecordBatch>,
}

impl ArrowTable {
    fn write(&self) -> Result<Bytes, ArrowError> {
        let mut writer = StreamWriter::try_new(Vec::new(), &self.schema)?;
        for batch in &self.batches {
            if batch.schema_ref() != &self.schema {
                let message = "a batch has another schema than its table".to_owned();
                return Err(ArrowError::SchemaError(message));
            }
            writer.write(batch)?;
        }
        Ok(writer.into_inner()?.into())
    }

    fn read(data: Bytes) -> Result<Self, ArrowError> {
        let reader = StreamReader::try_new(Cursor::new(data), None)?;
        let schema = reader.schema();
        Ok(Self { schema, batches: reader.collect::<Result<_, _>>()? })
    }
}

impl From<RecordBatch> for ArrowTable {
    fn from(batch: RecordBatch) -> Self {
        Self { schema: batch.schema(), batches: vec![batch] }
    }
}

impl Serialize for ArrowTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        put(serializer, &self.write().map_err(S::Error::custom)?, What::Arrow)
    }
}

impl<'de> Deserialize<'de> for ArrowTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match take(deserializer, "an Arrow table (in Python one of pyarrow, Polars or pandas)")? {
            Came::Arrow(data) => Self::read(data).map_err(D::Error::custom),
            other => Err(D::Error::custom(format_args!(
                "expected an Arrow table, this is {}",
                other.is()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, StringArray};

    use super::*;
    use crate::codec::{self, Payload};

    fn table() -> ArrowTable {
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("größe")]));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, f64::NAN]));
        RecordBatch::try_from_iter([("name", names), ("value", values)]).unwrap().into()
    }

    fn payload(value: &impl Serialize) -> Payload {
        let mut json = Vec::new();
        let buffers = codec::encode(&mut json, value).unwrap();
        Payload { json: json.into(), buffers }
    }

    #[test]
    fn a_table_comes_back_as_it_was() {
        let ArrowTable { schema, batches } = table();
        for table in [
            ArrowTable { batches: [&batches[..], &batches[..]].concat(), schema: schema.clone() },
            ArrowTable { schema, batches: Vec::new() },
        ] {
            let back: Vec<ArrowTable> = codec::decode(&payload(&[&table])).unwrap();
            assert_eq!(format!("{back:?}"), format!("{:?}", [table]), "NaN is not equal to itself");
        }
    }

    #[test]
    fn what_is_no_table_is_named() {
        let error =
            codec::decode::<ArrowTable>(&payload(&crate::Buffer::from(vec![1]))).unwrap_err();
        assert!(error.contains("this is 1 bytes"), "{error}");
        let error = codec::decode::<crate::Buffer>(&payload(&table())).unwrap_err();
        assert!(error.contains("ArrowTable"), "{error}");
        let mut broken = payload(&table());
        broken.buffers = vec![broken.buffers[0].slice(..40)];
        assert!(codec::decode::<ArrowTable>(&broken).is_err());
        let other = RecordBatch::try_from_iter([(
            "x",
            Arc::new(Float64Array::from(vec![1.0])) as ArrayRef,
        )]);
        let mixed = ArrowTable { batches: vec![other.unwrap()], ..table() };
        assert!(codec::encode(&mut Vec::new(), &mixed).is_err());
    }
}
