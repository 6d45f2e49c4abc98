//! External calls in a session: `<call>(…)`, a function that waits for its answers.

mod function;
mod place;
mod split;

use std::sync::Arc;

use datafusion::{
    execution::FunctionRegistry,
    logical_expr::{Expr, async_udf::AsyncScalarUDF},
    prelude::SessionContext,
};

use self::function::{Asked, CallFunction};
use super::{Result, session::Scope};
use crate::{
    calls::{Calls, Definition, Fault, Refused},
    catalog::TransformSpec,
};
pub(super) use place::check as check_places;
pub(super) use split::conditions_apart;

/// Lets the session's SQL call what the transform declares.
pub(super) fn add(
    context: &SessionContext,
    calls: &Calls,
    spec: &TransformSpec,
    scope: &Scope,
) -> Result<()> {
    let window = scope.window();
    for definition in Definition::all(spec)? {
        let asked = match scope {
            Scope::Check(_) => Asked::Nobody,
            Scope::Partition {
                partition,
                calls: work,
                ..
            } => Asked::Outside {
                run: calls.run(work.clone()),
                end: window.to.unwrap_or(window.from),
                partition: partition.label.clone(),
            },
        };
        let function = Arc::new(CallFunction::new(definition, asked));
        context.register_udf(AsyncScalarUDF::new(function).into_scalar_udf());
    }
    Ok(())
}

/// Checks the calls of a definition: each by itself, that nothing else has its name, and that its rate limit is there.
///
/// # Errors
/// [`super::Error::Call`].
pub(super) fn check(
    registry: &dyn FunctionRegistry,
    calls: &Calls,
    spec: &TransformSpec,
) -> Result<()> {
    for (index, definition) in Definition::all(spec)?.iter().enumerate() {
        let name = definition.name();
        let is_taken = registry.udf(name).is_ok()
            || registry.udaf(name).is_ok()
            || registry.udwf(name).is_ok();
        if is_taken {
            let field = format!("transform.calls[{index}].name");
            let problem = format!("{name:?} is a function of SQL");
            return Err(Refused::new(Fault::Name, field, problem).into());
        }
        let limit = definition.rate_limit();
        if !calls.limiter().exists(limit) {
            let field = format!("transform.calls[{index}].rate_limit");
            let problem = format!("rate limit {limit:?} does not exist: create it first");
            return Err(Refused::new(Fault::Limit, field, problem).into());
        }
    }
    Ok(())
}

/// The name of the external call that an expression is.
pub(super) fn is_call(expression: &Expr) -> Option<&str> {
    let Expr::ScalarFunction(call) = expression else {
        return None;
    };
    // Nothing else in a session waits.
    call.func.as_async().map(|_| call.func.name())
}
