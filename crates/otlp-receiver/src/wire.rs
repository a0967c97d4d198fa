//! Reads and writes protobuf's wire format (<https://protobuf.dev/programming-guides/encoding/>) without copying.

/// The body is not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub(crate) struct Malformed;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Field<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    /// A text, bytes or another message.
    Bytes(&'b [u8]),
}

/// The fields of a message in their order: (number, value). Ends after the first fault.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    pub(crate) fn of(message: &'b [u8]) -> Self {
        Self(message)
    }

    fn field(&mut self) -> Option<(u32, Field<'b>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Field::Fixed32)?,
            // Groups, which OTLP does not have.
            _ => return None,
        };
        Some((number, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u32, Field<'b>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

/// Appends a number.
pub(crate) fn put_varint(message: &mut Vec<u8>, number: u32, value: u64) {
    put_raw_varint(message, u64::from(number << 3));
    put_raw_varint(message, value);
}

/// Appends a text, bytes or a message.
pub(crate) fn put_bytes(message: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_raw_varint(message, u64::from(number << 3 | 2));
    put_raw_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

fn put_raw_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_broken_message_is_a_fault_and_ends() {
        for broken in [
            &[0x0a_u8][..],
            &[0x0a, 5, 1],
            &[0x08],
            &[0x08, 0x80],
            &[0x09, 1, 2],
            &[0x0b],
            &[0x00, 1],
            &[0xff; 12],
        ] {
            assert_eq!(Fields::of(broken).collect::<Vec<_>>(), [Err(Malformed)], "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 1_u32..1_000, value: u64, bytes: Vec<u8>) {
            let mut message = Vec::new();
            put_varint(&mut message, number, value);
            put_bytes(&mut message, number, &bytes);
            let fields: Vec<_> = Fields::of(&message).collect();
            prop_assert_eq!(fields, [Ok((number, Field::Varint(value))), Ok((number, Field::Bytes(&bytes)))]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }
    }
}
