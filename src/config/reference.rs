//! The page of all keys, `docs/configuration.md`.

use std::fmt::Write as _;

use super::{KEYS, keys::Group};

const HEAD: &str = "\
# Configuration

<!-- Made by `hindcast config reference`, from src/config/keys.rs; a test compares. -->

A server takes each setting from four places; the later one wins:

1. the default,
2. a TOML file: `--config FILE`, or `HINDCAST_CONFIG`,
3. a variable: the key in capitals after `HINDCAST_`, `store_cache` being `HINDCAST_STORE_CACHE`; an empty one is none,
4. a flag of `hindcast serve`: the key with dashes, `--store-cache`.

```toml
# hindcast.toml
data_dir = \"/var/lib/hindcast\"
listen = \"0.0.0.0:4780\"
tls_cert = \"/etc/hindcast/tls/tls.crt\"
tls_key = \"/etc/hindcast/tls/tls.key\"
tokens_file = \"/etc/hindcast/tokens.toml\"
store_cache = \"2GiB\"
keepalive_interval = \"30s\"
```

Sizes are written `512MiB`, `1GiB`, `64MB` or `65536` (bytes), durations `500ms`, `30s`, `1h30m`. Relative paths are relative
to the folder that the server is started in.

A key, variable or flag that does not exist is refused, with the one that is probably meant. Variables of client commands
(`HINDCAST_SERVER`, `HINDCAST_TOKEN`, …), of Kubernetes service links (`HINDCAST_SERVICE_HOST`, …), those that start with
`HINDCAST_SECRET_`, and those of the test suites (`HINDCAST_TEST_…`, `HINDCAST_BENCH_…`, `HINDCAST_MODEL_…`, `HINDCAST_CRASH_…`,
`HINDCAST_POWER_CUT_…`, `HINDCAST_ADVERSARIAL…`, `HINDCAST_DAMAGE_…`, `HINDCAST_RECORD_…`, `HINDCAST_PEERS_…`) are let be. A
value that is no UTF-8 is refused.

```sh
hindcast config check --config hindcast.toml   # exit code 0, or 64 and every fault with its line
hindcast config show --config hindcast.toml    # the value of every key, and where it comes from
```

Both take every flag of `hindcast serve`, and read the same variables. `check` also opens the certificates and the tokens file,
and says whether a server would start with them.
";

const TAIL: &str = "
## Tokens

`[[token]]` tables stand in the configuration file, or in the file that `tokens_file` names; `hindcast token new` prints one.
See [security](security.md).

```toml
[[token]]
name = \"nightly-pipeline\"
sha256 = \"…\"
role = \"writer\"     # reader, writer, operator or admin
```
";

/// The page.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for group in Group::ALL {
        let _infallible = write!(
            page,
            "\n## {}\n\n| key | value | default | what it does |\n|---|---|---|---|\n",
            group.title()
        );
        for key in KEYS.iter().filter(|key| key.group == group) {
            let default = match key.default {
                "" => "unset".to_owned(),
                default => format!("`{default}`"),
            };
            let _infallible = writeln!(
                page,
                "| `{}` | {} | {default} | {} |",
                key.name,
                key.shape.describe(),
                key.help
            );
        }
    }
    page + TAIL
}
