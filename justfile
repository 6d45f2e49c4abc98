# What people type. `.ci/run` does `check` and more on a fresh machine.

# List the recipes.
default:
    @just --list

# Everything that must hold before a commit.
check: fmt clippy test doc

# Formatting, as rustfmt wants it.
fmt:
    cargo fmt --check

# Lints; a warning is an error.
clippy:
    cargo clippy --all-targets --locked -- -D warnings

# Unit, integration and doc tests. HINDCAST_TEST_PYTHON names a Python that has tests/python/requirements.txt.
test *args:
    cargo test --locked {{ args }}

# The doc tests alone.
test-doc:
    cargo test --locked --doc

# The API documentation; a warning is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# 20,000 random lives of the store beside its model, and as many imports (about an hour).
model cases="20000":
    HINDCAST_MODEL_CASES={{ cases }} cargo test --locked --test it store_model -- --nocapture

# 200 rounds of kill -9 under concurrent writers.
crash-rounds rounds="200":
    HINDCAST_CRASH_ROUNDS={{ rounds }} cargo test --locked --test it store_kill -- --nocapture

# Backfills whose server is killed with kill -9, 50 times each: partitions in parallel, and in order.
backfill-crash-rounds kills="50":
    HINDCAST_CRASH_KILLS={{ kills }} cargo test --locked --test it backfill_crash -- --nocapture

# A quarter of external calls, 1,000 ids a day, beside an outside system that refuses what goes beyond its quota.
calls-quota ids="1000":
    HINDCAST_CALLS_IDS={{ ids }} cargo test --release --locked --test it calls_quota -- --nocapture

# 200 simulated power cuts.
power-cuts rounds="200":
    HINDCAST_POWER_CUT_ROUNDS={{ rounds }} cargo test --locked --test it store_power_cut -- --nocapture

# The story on real data.
quickstart *args:
    cargo run --release --locked -- quickstart {{ args }}

# A million corrections of one entity, in seven patterns: few pages per read, and right answers.
adversarial count="1000000":
    HINDCAST_ADVERSARIAL={{ count }} cargo test --release --locked --test it store_adversarial -- --nocapture --test-threads 2

# The manifests of k8s/: rendered, validated, and the server started as they say (Linux, root, kubectl; its Python needs
# tests/k8s/requirements.txt).
k8s python="python3":
    cargo build --release --locked
    {{ python }} tests/k8s/check.py --binary target/release/hindcast

# Fuzz the reading of stored pages and keys (needs cargo-fuzz; its sanitizers would need nightly).
fuzz target="page" seconds="3600":
    RUSTC_BOOTSTRAP=1 cargo fuzz run -s none {{ target }} -- -max_total_time={{ seconds }} -max_len=4096

# Measure.
bench *args:
    cargo bench --locked {{ args }}

# Licences, advisories and doubled crates (needs cargo-deny).
deny:
    cargo deny --locked check

# All that continuous integration does.
ci:
    .ci/run
