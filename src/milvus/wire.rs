//! A lossless editor of protobuf messages.
//!
//! Restore rewrites a few fields of values that a Milvus of another version wrote. Decoding such a value
//! with generated types and encoding it again would drop every field those types do not know, so it is
//! edited on the wire level: a [`Message`] is a list of fields with their bytes as they were, and what is
//! not touched is encoded byte for byte as it was read.

use std::ops::Range;

use prost::encoding::{decode_varint, encode_varint};

use crate::{Cause, Error, Result};

/// The largest field number protobuf has.
const MAX_FIELD: u32 = (1 << 29) - 1;

/// How the bytes of a field are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireType {
    /// A variable-length integer: all integers but the fixed ones, booleans, enumerations.
    Varint,
    /// Eight bytes: fixed64, sfixed64, double.
    Fixed64,
    /// A length and that many bytes: strings, bytes, messages, map entries, packed lists.
    Bytes,
    /// Four bytes: fixed32, sfixed32, float.
    Fixed32,
}

impl WireType {
    fn of_tag(tag: u32) -> Option<Self> {
        match tag & 7 {
            0 => Some(Self::Varint),
            1 => Some(Self::Fixed64),
            2 => Some(Self::Bytes),
            5 => Some(Self::Fixed32),
            _ => None,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Bytes => 2,
            Self::Fixed32 => 5,
        }
    }
}

/// One field of a [`Message`], with its bytes as they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    number: u32,
    wire_type: WireType,
    raw: Vec<u8>,
    payload: Range<usize>,
}

impl Field {
    fn varint(number: u32, value: u64) -> Self {
        let mut raw = tag(number, WireType::Varint);
        let start = raw.len();
        encode_varint(value, &mut raw);
        let payload = start..raw.len();
        Self {
            number,
            wire_type: WireType::Varint,
            raw,
            payload,
        }
    }

    fn bytes(number: u32, value: &[u8]) -> Self {
        let mut raw = tag(number, WireType::Bytes);
        encode_varint(value.len() as u64, &mut raw);
        let start = raw.len();
        raw.extend_from_slice(value);
        let payload = start..raw.len();
        Self {
            number,
            wire_type: WireType::Bytes,
            raw,
            payload,
        }
    }

    /// The field's value as it is on the wire, without tag and length.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.raw[self.payload.clone()]
    }
}

/// A protobuf message as a list of fields, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    fields: Vec<Field>,
}

impl Message {
    /// Parses `bytes`.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] with the offset when the bytes are not a message: cut short, a varint that does
    /// not end, a field number out of range, a wire type that does not exist, or a group (wire types 3
    /// and 4), which proto3 does not have.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            let tag = read_varint(bytes, &mut at)?;
            let tag = u32::try_from(tag)
                .map_err(|_| malformed(start, "the field number is out of range"))?;
            let number = tag >> 3;
            if number == 0 || number > MAX_FIELD {
                return Err(malformed(start, "the field number is out of range"));
            }
            let wire_type = WireType::of_tag(tag)
                .ok_or_else(|| malformed(start, "the wire type is unknown"))?;
            let mut value = at;
            match wire_type {
                WireType::Varint => {
                    read_varint(bytes, &mut at)?;
                }
                WireType::Fixed64 => at += 8,
                WireType::Fixed32 => at += 4,
                WireType::Bytes => {
                    let length = read_varint(bytes, &mut at)?;
                    value = at;
                    at = usize::try_from(length)
                        .ok()
                        .and_then(|length| at.checked_add(length))
                        .ok_or_else(|| malformed(start, "the length is out of range"))?;
                }
            }
            let raw = bytes
                .get(start..at)
                .ok_or_else(|| malformed(start, "the value is cut short"))?
                .to_vec();
            fields.push(Field {
                number,
                wire_type,
                raw,
                payload: value - start..at - start,
            });
        }
        Ok(Self { fields })
    }

    /// The message's bytes: those that were parsed where nothing was changed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.fields.iter().map(|field| field.raw.len()).sum());
        for field in &self.fields {
            bytes.extend_from_slice(&field.raw);
        }
        bytes
    }

    /// Whether there is a field `number`.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        self.fields.iter().any(|field| field.number == number)
    }

    /// The varint `number`: the last one, as protobuf has it; `None` when it is absent.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the field has another wire type.
    #[cfg(test)]
    fn varint(&self, number: u32) -> Result<Option<u64>> {
        self.last(number, WireType::Varint)?
            .map(|field| read_varint(field.payload(), &mut 0))
            .transpose()
    }

    /// The string, bytes or message `number`: the last one; `None` when it is absent.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the field has another wire type.
    pub fn bytes(&self, number: u32) -> Result<Option<&[u8]>> {
        Ok(self.last(number, WireType::Bytes)?.map(Field::payload))
    }

    /// Sets the varint `number`, in the place of the first that is there; 0 removes it, as proto3 never
    /// writes a default.
    pub fn set_varint(&mut self, number: u32, value: u64) {
        let field = (value != 0).then(|| Field::varint(number, value));
        self.replace(number, field);
    }

    /// Sets the string or bytes `number`, in the place of the first that is there; an empty value
    /// removes it, as proto3 never writes a default.
    pub fn set_bytes(&mut self, number: u32, value: &[u8]) {
        let field = (!value.is_empty()).then(|| Field::bytes(number, value));
        self.replace(number, field);
    }

    /// Adds a string, bytes or message `number` after all other fields: one more element of a list.
    pub fn add_bytes(&mut self, number: u32, value: &[u8]) {
        self.fields.push(Field::bytes(number, value));
    }

    /// Sets the message `number`, in the place of the first that is there; an empty message is present.
    pub fn set_message(&mut self, number: u32, value: &Self) {
        self.replace(number, Some(Field::bytes(number, &value.encode())));
    }

    /// Removes every field `number` and says how many there were.
    pub fn remove(&mut self, number: u32) -> usize {
        let before = self.fields.len();
        self.fields.retain(|field| field.number != number);
        before - self.fields.len()
    }

    /// Edits every message in field `number` (each element of a list, each entry of a map, whose key is
    /// field 1 and whose value is field 2) and says how many there were. What `edit` leaves as it was
    /// stays byte for byte.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when such a field is not a message; otherwise what `edit` returns. `self` may be
    /// edited in part then.
    pub fn edit<F>(&mut self, number: u32, mut edit: F) -> Result<usize>
    where
        F: FnMut(&mut Self) -> Result<()>,
    {
        let mut count = 0;
        for field in self
            .fields
            .iter_mut()
            .filter(|field| field.number == number)
        {
            expect_type(field, WireType::Bytes)?;
            let mut nested = Self::parse(field.payload())
                .map_err(|error| error.context(format!("protobuf field {number}")))?;
            edit(&mut nested)?;
            let encoded = nested.encode();
            if encoded != field.payload() {
                *field = Field::bytes(number, &encoded);
            }
            count += 1;
        }
        Ok(count)
    }

    /// Offers every string or bytes value in field `number` to `edit`, which gives the new value or `None`
    /// to leave it, and says how many were changed.
    ///
    /// # Errors
    ///
    /// [`Cause::Damage`] when the field has another wire type.
    pub fn edit_bytes<F>(&mut self, number: u32, mut edit: F) -> Result<usize>
    where
        F: FnMut(&[u8]) -> Option<Vec<u8>>,
    {
        let mut count = 0;
        let fields = self.fields.iter_mut();
        for field in fields.filter(|field| field.number == number) {
            expect_type(field, WireType::Bytes)?;
            if let Some(value) = edit(field.payload()) {
                *field = Field::bytes(number, &value);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Edits every message at `path`, a list of field numbers from the outside in, and says how many
    /// there were; the empty path is the message itself.
    ///
    /// # Errors
    ///
    /// As [`edit`](Self::edit).
    pub fn edit_path(
        &mut self,
        path: &[u32],
        edit: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<usize> {
        let Some((&number, rest)) = path.split_first() else {
            edit(self)?;
            return Ok(1);
        };
        let mut count = 0;
        self.edit(number, |nested| {
            count += nested.edit_path(rest, edit)?;
            Ok(())
        })?;
        Ok(count)
    }

    fn last(&self, number: u32, wire_type: WireType) -> Result<Option<&Field>> {
        let field = self
            .fields
            .iter()
            .rev()
            .find(|field| field.number == number);
        field
            .map(|field| expect_type(field, wire_type).map(|()| field))
            .transpose()
    }

    /// Puts `field` where the first of `number` is, else before the first field with a larger number.
    fn replace(&mut self, number: u32, field: Option<Field>) {
        let at = self
            .fields
            .iter()
            .position(|field| field.number == number)
            .or_else(|| self.fields.iter().position(|field| field.number > number))
            .unwrap_or(self.fields.len());
        self.remove(number);
        if let Some(field) = field {
            self.fields.insert(at, field);
        }
    }
}

fn expect_type(field: &Field, wire_type: WireType) -> Result<()> {
    if field.wire_type == wire_type {
        return Ok(());
    }
    Err(Error::new(
        Cause::Damage,
        format!(
            "protobuf field {} has wire type {:?} where {wire_type:?} is expected",
            field.number, field.wire_type
        ),
    ))
}

fn malformed(at: usize, what: &str) -> Error {
    Error::new(
        Cause::Damage,
        format!("malformed protobuf at byte {at}: {what}"),
    )
}

fn tag(number: u32, wire_type: WireType) -> Vec<u8> {
    let mut raw = Vec::new();
    encode_varint(
        u64::from(number) << 3 | u64::from(wire_type.code()),
        &mut raw,
    );
    raw
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut rest = bytes.get(*at..).unwrap_or_default();
    let value = decode_varint(&mut rest)
        .map_err(|_| malformed(*at, "a number is cut short or longer than 64 bits"))?;
    *at = bytes.len() - rest.len();
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::milvus::proto::{common, data, msg};

    fn segment() -> data::SegmentInfo {
        let position = |timestamp| msg::MsgPosition {
            channel_name: "by-dev-rootcoord-dml_0".to_owned(),
            msg_id: vec![8, 0, 0, 0, 0, 0, 0, 1],
            timestamp,
            ..Default::default()
        };
        data::SegmentInfo {
            id: 449,
            num_of_rows: 3000,
            start_position: Some(position(11)),
            dml_position: Some(position(12)),
            compaction_from: vec![1, 2, 3],
            ..Default::default()
        }
    }

    #[test]
    fn an_edit_changes_its_field_and_nothing_else() {
        // Fields of a newer version, one before and one after, the last with an oversized varint.
        let mut bytes = vec![0xaa, 0x3e, 0x02, b'h', b'i'];
        bytes.extend(segment().encode_to_vec());
        bytes.extend([0xc0, 0x3e, 0x85, 0x80, 0x00]);
        let mut message = Message::parse(&bytes).unwrap();
        assert_eq!(message.encode(), bytes);

        for position in [9, 10] {
            let edited = message.edit(position, |position| {
                position.set_bytes(2, &[0; 8]);
                Ok(())
            });
            assert_eq!(edited.unwrap(), 1);
        }
        let rewritten = message.encode();
        assert!(
            rewritten.starts_with(&bytes[..5]) && rewritten.ends_with(&bytes[bytes.len() - 5..])
        );
        let mut expected = segment();
        expected.start_position.as_mut().unwrap().msg_id = vec![0; 8];
        expected.dml_position.as_mut().unwrap().msg_id = vec![0; 8];
        assert_eq!(data::SegmentInfo::decode(&rewritten[..]).unwrap(), expected);
    }

    #[test]
    fn setting_adds_in_order_replaces_all_and_removes_defaults() {
        let mut message = Message::parse(&segment().encode_to_vec()).unwrap();
        message.set_varint(6, 4);
        message.set_varint(1, 450);
        message.set_varint(5, 0);
        message.set_bytes(4, b"channel");
        message.set_message(11, &Message::default());
        let decoded = data::SegmentInfo::decode(&message.encode()[..]).unwrap();
        let expected = data::SegmentInfo {
            id: 450,
            num_of_rows: 0,
            state: common::SegmentState::Flushed.into(),
            insert_channel: "channel".to_owned(),
            binlogs: vec![data::FieldBinlog::default()],
            ..segment()
        };
        assert_eq!(decoded, expected);
        assert_eq!(
            message.encode(),
            expected.encode_to_vec(),
            "fields stay in the order of their numbers"
        );
        assert_eq!(
            (message.varint(1).unwrap(), message.varint(99).unwrap()),
            (Some(450), None)
        );
        assert_eq!(message.bytes(4).unwrap(), Some(&b"channel"[..]));
        assert_eq!(message.varint(4).unwrap_err().cause(), Cause::Damage);
        assert_eq!(message.remove(11), 1);
        assert!(!message.has(11));
    }

    #[test]
    fn a_path_reaches_every_nested_message() {
        let value = data::SegmentInfo {
            binlogs: (0..3)
                .map(|field| data::FieldBinlog {
                    field_id: field,
                    binlogs: vec![
                        data::Binlog {
                            log_path: "x".to_owned(),
                            log_id: 7,
                            ..Default::default()
                        };
                        2
                    ],
                    ..Default::default()
                })
                .collect(),
            ..segment()
        };
        let mut message = Message::parse(&value.encode_to_vec()).unwrap();
        let count = message.edit_path(&[11, 2], &mut |log| {
            log.remove(4);
            Ok(())
        });
        assert_eq!(count.unwrap(), 6);
        let decoded = data::SegmentInfo::decode(&message.encode()[..]).unwrap();
        let logs: Vec<_> = decoded
            .binlogs
            .iter()
            .flat_map(|field| &field.binlogs)
            .collect();
        assert!(
            logs.len() == 6
                && logs
                    .iter()
                    .all(|log| log.log_path.is_empty() && log.log_id == 7)
        );
    }

    #[test]
    fn malformed_bytes_are_errors_that_say_where() {
        let cases: [(&[u8], &str); 8] = [
            (&[0x80], "a number is cut short"),
            (&[0x08], "a number is cut short"),
            (&[0x00, 0x01], "the field number is out of range"),
            (&[0x0b], "the wire type is unknown"),
            (&[0x0a, 0x05, 0x01], "the value is cut short"),
            (&[0x0d, 1, 2, 3], "the value is cut short"),
            (
                &[
                    0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
                ],
                "longer than 64 bits",
            ),
            (
                &[
                    0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
                ],
                "the length is out of range",
            ),
        ];
        for (bytes, what) in cases {
            let error = Message::parse(bytes).unwrap_err();
            assert_eq!(error.cause(), Cause::Damage);
            assert!(error.to_string().contains(what), "{bytes:x?}: {error}");
        }
        let mut message = Message::parse(&[0x0a, 0x01, 0x08]).unwrap();
        assert_eq!(
            message.edit(1, |_| Ok(())).unwrap_err().chain(),
            "protobuf field 1: malformed protobuf at byte 1: a number is cut short or longer than 64 bits"
        );
    }

    proptest! {
        #[test]
        fn what_parses_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }

        #[test]
        fn every_message_of_prost_parses_and_an_edit_is_what_prost_would_write(
            rows in any::<i64>(), from in prop::collection::vec(any::<i64>(), 0..9),
            channel in ".{0,12}", id in prop::collection::vec(any::<u8>(), 0..20), time in any::<u64>(),
        ) {
            let mut value = segment();
            value.num_of_rows = rows;
            value.compaction_from = from;
            value.insert_channel = channel;
            let bytes = value.encode_to_vec();
            let mut message = Message::parse(&bytes).unwrap();
            prop_assert_eq!(&message.encode(), &bytes);
            message.edit(10, |position| {
                position.set_bytes(2, &id);
                position.set_varint(4, time);
                Ok(())
            }).unwrap();
            let position = value.dml_position.as_mut().unwrap();
            position.msg_id = id;
            position.timestamp = time;
            prop_assert_eq!(message.encode(), value.encode_to_vec());
        }

        #[test]
        fn an_edit_that_changes_nothing_keeps_odd_encodings(
            number in 1_u32..200, pad in 0_usize..4, inner in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            // The length of the nested message is written longer than it need be.
            let mut bytes = tag(number, WireType::Bytes);
            let nested = Field::bytes(3, &inner).raw;
            encode_varint(nested.len() as u64, &mut bytes);
            if pad > 0 {
                *bytes.last_mut().unwrap() |= 0x80;
                bytes.extend(std::iter::repeat_n(0x80, pad - 1));
                bytes.push(0);
            }
            bytes.extend(&nested);
            let mut message = Message::parse(&bytes).unwrap();
            message.edit(number, |_| Ok(())).unwrap();
            prop_assert_eq!(message.encode(), bytes);
        }
    }
}
