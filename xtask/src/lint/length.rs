//! A file with more lines is two things.

use super::Finding;

/// Longest file.
const MOST_LINES: usize = 500;

/// Returns a finding when `text` is too long.
pub(super) fn check(file: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines > MOST_LINES).then(|| Finding {
        file: file.to_owned(),
        line: MOST_LINES + 1,
        rule: format!("{lines} lines; a file has at most {MOST_LINES}: make two things of it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_hundredth_line_is_the_last_that_is_allowed() {
        assert_eq!(check("a.rs", &"x\n".repeat(500)), None);
        let finding = check("a.rs", &"x\n".repeat(501)).expect("one line too many");
        assert_eq!((finding.line, finding.file.as_str()), (501, "a.rs"));
    }
}
