//! What lies beside the checkout: data and scenarios that the product does not need and the tests do.

use std::path::{Path, PathBuf};

/// The file or folder `path` of `../shared`. Without it a test says that it was skipped; in CI that is a failure.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared")
        .join(path);
    if found.exists() {
        return Some(found);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "there is no ../shared/{path} beside the checkout"
    );
    eprintln!("skipped: there is no ../shared/{path} beside the checkout");
    None
}
