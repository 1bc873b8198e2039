//! The names of split files: `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

use crate::error::part_suffix;

/// The most parts of a model: each takes an open file.
pub(crate) const MAX_PARTS: u16 = 1024;

/// The name of a part, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartName {
    /// What all parts have in common.
    pub(crate) stem: PathBuf,
    /// Number of parts.
    pub(crate) count: u16,
    /// Which one, from 0.
    pub(crate) no: u16,
}

impl PartName {
    /// `None` for a name of another form.
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, no) = stem.rsplit_once('-')?;
        let number = |digits: &str| {
            let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let (no, count) = (number(no)?, number(count)?);
        (1..=count).contains(&no).then(|| Self {
            stem: path.with_file_name(stem),
            count,
            no: no - 1,
        })
    }

    /// Where part `no` (from 0) is.
    pub(crate) fn part(&self, no: u16) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(part_suffix(no, self.count));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart_and_put_together() {
        let path = Path::new("models/a-b-00002-of-00012.gguf");
        let name = PartName::parse(path).unwrap();
        assert_eq!((name.no, name.count), (1, 12));
        assert_eq!(name.part(1), path);
        assert_eq!(name.part(11), Path::new("models/a-b-00012-of-00012.gguf"));
        for other in [
            "a.gguf",
            "a-1-of-2.gguf",
            "a-00003-of-00002.gguf",
            "a-00000-of-00002.gguf",
            "a-00001-of-99999.gguf",
            "a-+0001-of-00002.gguf",
            "a-00001-of-00002.bin",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(PartName::parse(Path::new(other)), None, "{other}");
        }
    }
}
