//! Reading and writing the integers, lengths and strings of section 1 of the format.

use crate::{Cause, Error, Result, Side};

/// An error that says that stored data is damaged.
pub(crate) fn damaged(message: impl Into<String>) -> Error {
    Side::Repository.error(Cause::Damage, message)
}

/// Turns "no such object" into damage: what a repository file names must exist.
pub(crate) fn missing_is_damage(error: Error) -> Error {
    if error.cause() == Cause::NotFound {
        damaged(error.to_string()).with_source(error)
    } else {
        error
    }
}

/// Appends `value` as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, out);
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A length or count as a `u32`; what is larger has no place in the format.
pub(crate) fn to_u32(value: usize, what: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        Side::Repository.error(Cause::Failed, format!("{what} of {value} is above 32 bits"))
    })
}

/// Reads from a byte slice; each error names what was being read.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'a str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn damaged(&self, why: &str) -> Error {
        damaged(format!("{} is damaged: {why}", self.what))
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.damaged("it ends early")),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of at least `size` bytes each; one that cannot fit is damage, so that a
    /// hostile count never becomes an allocation.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize> {
        let count = self.u32()? as usize;
        if count
            .checked_mul(size)
            .is_none_or(|bytes| bytes > self.rest.len())
        {
            return Err(self.damaged("a count does not fit"));
        }
        Ok(count)
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift != 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(self.damaged("an integer is not in its shortest form"))
    }

    pub(crate) fn varint_usize(&mut self) -> Result<usize> {
        let value = self.varint()?;
        usize::try_from(value).map_err(|_| self.damaged("a length does not fit"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.varint_usize()?;
        self.take(len)
    }

    pub(crate) fn expect(&mut self, magic: &[u8], name: &str) -> Result<()> {
        if self.take(magic.len())? == magic {
            return Ok(());
        }
        Err(self.damaged(&format!("the {name} is wrong")))
    }

    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(self.damaged("bytes follow its end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_and_bytes_round_trip(value: u64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new(&out, "x");
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert_eq!(reader.bytes().unwrap(), &bytes[..]);
            reader.end().unwrap();
        }

        #[test]
        fn reading_noise_never_panics(noise: Vec<u8>) {
            let mut reader = Reader::new(&noise, "x");
            let _ = (reader.varint(), reader.bytes(), reader.count(3), reader.u64());
        }
    }

    #[test]
    fn only_the_shortest_form_of_an_integer_is_read() {
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0x80; 11]] {
            assert!(Reader::new(bad, "x").varint().is_err());
        }
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&most, "x").varint().unwrap(), u64::MAX);
    }
}
