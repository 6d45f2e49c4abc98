//! `hindcast entity put`, `patch`, `end` and `erase`.

use super::utc;
use crate::{
    cli::{
        client::Client,
        entity_type,
        error::Error,
        output::{self, Format},
        times::{self, TimeArg},
        values,
    },
    pb::{self, end, expect::Condition, mutation::Operation, patch, put},
};

/// What is written to, and under which conditions.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Its type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// Its id
    #[arg(value_name = "ID")]
    entity_id: String,
    #[command(flatten)]
    expect: Expect,
    /// The same id again returns the first answer and writes nothing
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    request_id: String,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Only if")]
struct Expect {
    /// There is a value with exactly these attributes; may be repeated, the others are null
    #[arg(
        long = "expect",
        value_name = "ATTRIBUTE=VALUE",
        conflicts_with = "expect_absent"
    )]
    expect: Vec<String>,
    /// There is no value: never known, ended or erased
    #[arg(long)]
    expect_absent: bool,
    /// What is there has not changed since this basis
    #[arg(long, value_name = "TIME")]
    expect_unchanged_since: Option<TimeArg>,
    /// Look at this point of valid time; without it: where the range starts
    #[arg(long, value_name = "TIME")]
    expect_at: Option<TimeArg>,
}

#[derive(Debug, clap::Args)]
struct Range {
    /// Valid from, inclusive; without it: the time of the commit
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArg>,
    /// Valid to, exclusive; without it and --forever: until the timeline next changes
    #[arg(long, value_name = "TIME", conflicts_with = "forever")]
    to: Option<TimeArg>,
    /// No end
    #[arg(long)]
    forever: bool,
}

/// Arguments of `entity put`.
#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    target: Target,
    /// Values, read by the attributes' declared kinds (bytes as base64)
    #[arg(required = true, value_name = "ATTRIBUTE=VALUE")]
    attributes: Vec<String>,
    #[command(flatten)]
    range: Range,
}

/// Arguments of `entity patch`.
#[derive(Debug, clap::Args)]
pub(crate) struct PatchArgs {
    #[command(flatten)]
    target: Target,
    /// Values, read by the attributes' declared kinds (bytes as base64)
    #[arg(required_unless_present = "null", value_name = "ATTRIBUTE=VALUE")]
    attributes: Vec<String>,
    /// Sets the attribute to null; may be repeated
    #[arg(long, value_name = "ATTRIBUTE")]
    null: Vec<String>,
    #[command(flatten)]
    range: Range,
}

/// Arguments of `entity end`.
#[derive(Debug, clap::Args)]
pub(crate) struct EndArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
}

/// Arguments of `entity erase`.
#[derive(Debug, clap::Args)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    target: Target,
}

pub(super) async fn put(args: &PutArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.target.entity_type).await?;
    let until = match (&args.range.to, args.range.forever) {
        (Some(to), _) => put::Until::ValidTo(times::timestamp(to.utc())),
        (None, true) => put::Until::Forever(pb::Forever {}),
        (None, false) => put::Until::UntilNextChange(pb::UntilNextChange {}),
    };
    let operation = Operation::Put(pb::Put {
        attributes: values::from_assignments(&entity_type, &args.attributes)?,
        valid_from: utc(args.range.from.as_ref()),
        until: Some(until),
    });
    write(client, format, &args.target, operation).await
}

pub(super) async fn patch(args: &PatchArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.target.entity_type).await?;
    let until = match (&args.range.to, args.range.forever) {
        (Some(to), _) => patch::Until::ValidTo(times::timestamp(to.utc())),
        (None, true) => patch::Until::Forever(pb::Forever {}),
        (None, false) => patch::Until::UntilNextChange(pb::UntilNextChange {}),
    };
    let mut attributes = values::from_assignments(&entity_type, &args.attributes)?;
    for name in &args.null {
        let before = attributes.insert(name.clone(), pb::Value::default());
        if before.is_some() {
            return Err(values::Error::Repeated(name.clone()).into());
        }
    }
    let operation = Operation::Patch(pb::Patch {
        attributes,
        valid_from: utc(args.range.from.as_ref()),
        until: Some(until),
    });
    write(client, format, &args.target, operation).await
}

pub(super) async fn end(args: &EndArgs, client: &Client, format: Format) -> Result<(), Error> {
    let until = match (&args.range.to, args.range.forever) {
        (Some(to), _) => end::Until::ValidTo(times::timestamp(to.utc())),
        (None, true) => end::Until::Forever(pb::Forever {}),
        (None, false) => end::Until::UntilNextChange(pb::UntilNextChange {}),
    };
    let operation = Operation::End(pb::End {
        valid_from: utc(args.range.from.as_ref()),
        until: Some(until),
    });
    write(client, format, &args.target, operation).await
}

pub(super) async fn erase(args: &EraseArgs, client: &Client, format: Format) -> Result<(), Error> {
    write(client, format, &args.target, Operation::Erase(pb::Erase {})).await
}

async fn expectations(client: &Client, target: &Target) -> Result<Vec<pb::Expect>, Error> {
    let Expect {
        expect,
        expect_absent,
        expect_unchanged_since,
        expect_at,
    } = &target.expect;
    let mut conditions = Vec::new();
    if !expect.is_empty() {
        let entity_type = entity_type::get(client, &target.entity_type).await?;
        conditions.push(Condition::Value(pb::ExpectValue {
            attributes: values::from_assignments(&entity_type, expect)?,
        }));
    }
    if *expect_absent {
        conditions.push(Condition::Absent(pb::ExpectAbsent {}));
    }
    if let Some(basis) = utc(expect_unchanged_since.as_ref()) {
        conditions.push(Condition::UnchangedSince(basis));
    }
    let expect = |condition| pb::Expect {
        valid_time: utc(expect_at.as_ref()),
        condition: Some(condition),
    };
    Ok(conditions.into_iter().map(expect).collect())
}

async fn write(
    client: &Client,
    format: Format,
    target: &Target,
    operation: Operation,
) -> Result<(), Error> {
    let is_erasure = matches!(operation, Operation::Erase(_));
    let mutation = pb::Mutation {
        entity_type: target.entity_type.clone(),
        entity_id: target.entity_id.clone(),
        operation: Some(operation),
        expect: expectations(client, target).await?,
    };
    let request = pb::WriteRequest {
        mutations: vec![mutation],
        request_id: target.request_id.clone(),
        ..Default::default()
    };
    let response = client.store().write(request).await?.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let basis = times::show_or_dash(response.system_time.as_ref());
    output::line(match (response.replayed, response.versions_written) {
        (true, _) => format!("this request was done before, at basis {basis}"),
        (false, 0) if is_erasure => format!("nothing of it is held (basis {basis})"),
        (false, 0) => format!("nothing to write: that is known already (basis {basis})"),
        (false, written) => format!(
            "{} written, at basis {basis}",
            output::counted(written, "version")
        ),
    })
}
