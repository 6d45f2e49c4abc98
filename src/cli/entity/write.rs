//! `hindcast entity put` and `hindcast entity end`.

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
    pb::{self, end, mutation::Operation, put},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Range {
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
    /// Its type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// Its id
    #[arg(value_name = "ID")]
    entity_id: String,
    /// Values, read by the attributes' declared kinds (bytes as base64)
    #[arg(required = true, value_name = "ATTRIBUTE=VALUE")]
    attributes: Vec<String>,
    #[command(flatten)]
    range: Range,
    /// The same id again returns the first answer and writes nothing
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    request_id: String,
}

/// Arguments of `entity end`.
#[derive(Debug, clap::Args)]
pub(crate) struct EndArgs {
    /// Its type's name
    #[arg(value_name = "TYPE")]
    entity_type: String,
    /// Its id
    #[arg(value_name = "ID")]
    entity_id: String,
    #[command(flatten)]
    range: Range,
    /// The same id again returns the first answer and writes nothing
    #[arg(long, default_value = "", value_name = "ID", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn put(args: &PutArgs, client: &Client, format: Format) -> Result<(), Error> {
    let entity_type = entity_type::get(client, &args.entity_type).await?;
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
    write(
        client,
        format,
        &args.entity_type,
        &args.entity_id,
        operation,
        &args.request_id,
    )
    .await
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
    write(
        client,
        format,
        &args.entity_type,
        &args.entity_id,
        operation,
        &args.request_id,
    )
    .await
}

async fn write(
    client: &Client,
    format: Format,
    entity_type: &str,
    entity_id: &str,
    operation: Operation,
    request_id: &str,
) -> Result<(), Error> {
    let mutation = pb::Mutation {
        entity_type: entity_type.to_owned(),
        entity_id: entity_id.to_owned(),
        operation: Some(operation),
        ..Default::default()
    };
    let request = pb::WriteRequest {
        mutations: vec![mutation],
        request_id: request_id.to_owned(),
        ..Default::default()
    };
    let response = client.store().write(request).await?.into_inner();
    if format == Format::Json {
        return output::json(&response);
    }
    let basis = times::show_or_dash(response.system_time.as_ref());
    output::line(match (response.replayed, response.versions_written) {
        (true, _) => format!("this request was done before, at basis {basis}"),
        (false, 0) => format!("nothing to write: that is known already (basis {basis})"),
        (false, written) => format!(
            "{} written, at basis {basis}",
            output::counted(written, "version")
        ),
    })
}
