//! Counts the bytes that readers of texts look at, so that tests and fuzz targets can show that no text costs more
//! than its length allows. Nothing is counted, and nothing compiled, in the program itself.

#[cfg(any(test, fuzzing))]
use std::cell::Cell;

#[cfg(any(test, fuzzing))]
thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// Runs something and says how many bytes were looked at on this thread meanwhile.
#[cfg(any(test, fuzzing))]
pub fn counted<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = STEPS.get();
    let value = run();
    (value, STEPS.get().wrapping_sub(before))
}

/// So many bytes more are looked at.
#[inline]
#[cfg_attr(not(any(test, fuzzing)), expect(unused_variables, reason = "only tests and fuzz targets count"))]
pub(crate) fn count(bytes: usize) {
    #[cfg(any(test, fuzzing))]
    STEPS.set(STEPS.get().wrapping_add(bytes));
}
