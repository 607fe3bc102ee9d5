//! Dependencies: `.deny.toml`, held against the lock by cargo-deny. Without a network, so
//! advisories are for the hosted workflow.

use super::rendered::{checker, run};

#[test]
fn dependencies_have_licences_we_may_use_one_version_each_and_one_source() {
    let mut deny = checker("cargo-deny");
    deny.args([
        "--offline",
        "--locked",
        "--manifest-path",
        concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
    ]);
    // An exception that nothing needs any more is a warning, and goes, too.
    deny.args([
        "check",
        "--deny",
        "warnings",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]);
    // All crates must be there, those for other systems, too: `cargo fetch --locked`, which
    // tests/setup/install does.
    let said = run(deny, "");
    assert!(said.contains("bans ok, licenses ok, sources ok"), "{said}");
}
