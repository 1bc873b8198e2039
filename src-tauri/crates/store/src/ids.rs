//! Names of things, and moments.

use std::fmt;
use std::str::FromStr;

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// A version 7 UUID: later ones are greater. Text in JSON, 16 bytes in the database.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "specta", derive(specta::Type))]
        #[serde(transparent)]
        pub struct $name(#[cfg_attr(feature = "specta", specta(type = String))] Uuid);

        impl $name {
            pub(crate) fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Borrowed(ValueRef::Blob(self.0.as_bytes())))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Uuid::from_slice(value.as_blob()?)
                    .map(Self)
                    .map_err(FromSqlError::other)
            }
        }
    };
}

id! {
    /// A chat.
    ChatId
}
id! {
    /// A message of a chat.
    MessageId
}
id! {
    /// What [`Store::delete_message`](crate::Store::delete_message) gives, to undo it.
    UndoToken
}

/// A moment: milliseconds since 1970-01-01 UTC, in the range that JavaScript's `Date` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "specta", derive(specta::Type))]
pub struct Timestamp(#[cfg_attr(feature = "specta", specta(type = u32))] i64);

impl Timestamp {
    /// The last one, in the year 275760.
    const MAX_MS: i64 = 8_640_000_000_000_000;

    /// Now, by the system's clock.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// From milliseconds since 1970, brought into range.
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.clamp(-Self::MAX_MS, Self::MAX_MS))
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> i64 {
        self.0
    }

    /// This much earlier.
    pub(crate) fn before(self, duration: std::time::Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_ms(self.0.saturating_sub(ms))
    }

    /// This much later.
    pub(crate) fn after(self, duration: std::time::Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_ms(self.0.saturating_add(ms))
    }

    /// `2026-11-23T22-41-14Z`: sorts by time and is good in a file name everywhere.
    pub(crate) fn file_name(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(
            |_| self.0.to_string(),
            |moment| moment.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
        )
    }

    /// `2026-11-23 22:41 UTC`, for people.
    pub(crate) fn minute(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(
            |_| self.0.to_string(),
            |moment| moment.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ms = f64::deserialize(deserializer)?;
        if ms.abs() <= Self::MAX_MS as f64 {
            Ok(Self(ms as i64))
        } else {
            Err(de::Error::custom(format_args!(
                "{ms} is no time: expected milliseconds since 1970, at most {}",
                Self::MAX_MS
            )))
        }
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self::from_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_whole_number_in_json_and_has_a_range() {
        let moment = Timestamp::from_ms(1_795_473_674_123);
        assert_eq!(serde_json::to_string(&moment).unwrap(), "1795473674123");
        assert_eq!(
            serde_json::from_str::<Timestamp>("1795473674123").unwrap(),
            moment
        );
        assert_eq!(
            serde_json::from_str::<Timestamp>("12.9").unwrap(),
            Timestamp(12)
        );
        for bad in ["1e300", "-8640000000000001", "null", "\"now\""] {
            assert!(serde_json::from_str::<Timestamp>(bad).is_err(), "{bad}");
        }
        assert_eq!(moment.file_name(), "2026-11-23T22-41-14Z");
        assert_eq!(moment.minute(), "2026-11-23 22:41 UTC");
        assert_eq!(
            Timestamp::from_ms(i64::MAX).file_name(),
            "8640000000000000",
            "beyond the calendar, but no panic"
        );
    }

    #[test]
    fn later_ids_are_greater_and_survive_text() {
        let ids: Vec<ChatId> = (0..1000).map(|_| ChatId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].to_string().parse::<ChatId>().unwrap(), ids[0]);
        assert!("no id".parse::<ChatId>().is_err());
    }
}
