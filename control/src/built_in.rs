//! The methods that every daemon has: about itself, its events and its jobs.

use crate::events::{Filter, History, Subscriptions};
use crate::failure::CODES;
use crate::plane::{JobStatus, Plane};
use crate::table::{Call, Described, Effect, Method, NoParams, Run, understand, value};
use crate::{Caller, Failure, Role, Ticket};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// One of those that take no time and so are answered at once, on the thread that serves the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BuiltIn {
    Status,
    Subscribe,
    Unsubscribe,
    JobWait,
    JobCancel,
}

pub(crate) fn methods<D: Send + Sync + 'static>() -> [Method<D>; 8] {
    use Effect::{Acts, Reads};
    fn row<D, P: JsonSchema, R: JsonSchema>(
        which: BuiltIn,
        effect: Effect,
        name: &'static str,
        summary: &'static str,
    ) -> Method<D> {
        Method::row::<P, R>(effect, name, summary, Run::BuiltIn(which))
    }
    [
        row::<_, NoParams, Status>(
            BuiltIn::Status,
            Reads,
            "control.status",
            "Which daemon this is, its generation, and what the caller may do.",
        ),
        Method::new(
            Reads,
            "control.describe",
            "All methods with JSON schemas of what they take and give, all kinds of events, all error codes.",
            describe,
        ),
        row::<_, Subscribe, Subscribed>(
            BuiltIn::Subscribe,
            Reads,
            "events.subscribe",
            "Has events sent on this connection from now on, as notifications `event`.",
        ),
        row::<_, Unsubscribe, ()>(
            BuiltIn::Unsubscribe,
            Reads,
            "events.unsubscribe",
            "Ends a subscription of this connection.",
        ),
        Method::new(
            Reads,
            "job.list",
            "All jobs that have not ended, and the last ones that have, without their results.",
            job_list,
        ),
        Method::new(Reads, "job.show", "One job.", job_show),
        row::<_, JobNumber, JobStatus>(BuiltIn::JobWait, Reads, "job.wait", "One job, when it has ended."),
        row::<_, JobNumber, ()>(
            BuiltIn::JobCancel,
            Acts,
            "job.cancel",
            "Asks a job to end. One that is waiting ends at once, another when it can; `job.ended` tells.",
        ),
    ]
}

/// The result of `control.status`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Stands for this run of the daemon: events are numbered within it.
    pub instance: String,
    /// Rises with each change, over restarts too.
    pub generation: u64,
    /// Whether something was changed that is not saved.
    #[serde(default)]
    pub unsaved: bool,
    /// What the caller may do.
    pub role: Role,
}

/// The result of `control.describe`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Description {
    /// By name.
    pub methods: Vec<Described>,
    /// The kinds of events, by name.
    pub events: Vec<Explained<String>>,
    /// Codes of errors.
    pub errors: Vec<Explained<i64>>,
}

/// Something that has a meaning.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Explained<T> {
    /// A name or number.
    pub is: T,
    /// What it means.
    pub summary: String,
}

/// The parameters of `events.subscribe`.
#[derive(Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Subscribe {
    /// Kinds such as `session.begun`, or types such as `session`; empty: all.
    pub kinds: Vec<String>,
    /// Names of objects, as events tell them; empty: all.
    pub objects: Vec<String>,
    /// First, what has happened after the event of this number, as far as it is still known; otherwise, only what happens
    /// from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The run of the daemon in which `since` was told. If this is another, all that it still knows is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// The result of `events.subscribe`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// Number of the subscription on this connection.
    pub subscription: u64,
    /// This run of the daemon.
    pub instance: String,
    /// Number of the last event so far.
    pub sequence: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Unsubscribe {
    /// As `events.subscribe` told it.
    subscription: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobNumber {
    /// Number of the job.
    job: u64,
}

impl BuiltIn {
    /// Whether it concerns the connection, and so is for [`Self::answer_here`].
    pub(crate) fn is_of_connection(self) -> bool {
        matches!(self, Self::Subscribe | Self::Unsubscribe)
    }

    /// Carries out one that concerns a connection.
    pub(crate) fn answer_here(
        self,
        instance: &str,
        params: Map<String, Value>,
        subscriptions: &mut Subscriptions,
        history: &History,
    ) -> Result<Value, Failure> {
        match self {
            Self::Subscribe => {
                let Subscribe { kinds, objects, since, instance: of } =
                    understand("events.subscribe", params)?;
                // Numbers of another run mean nothing.
                let is_other = of.is_some_and(|of| of != instance);
                let since = if is_other { 0 } else { since.unwrap_or(u64::MAX) };
                let subscription = subscriptions.add(Filter { kinds, objects }, since, history)?;
                value(&Subscribed { subscription, instance: instance.to_owned(), sequence: history.last() })
            }
            Self::Unsubscribe => {
                let Unsubscribe { subscription } = understand("events.unsubscribe", params)?;
                subscriptions.remove(subscription).map(|()| Value::Null)
            }
            _ => Err(crate::ticket::internal()),
        }
    }

    /// Carries out another.
    pub(crate) fn answer<D: Send + Sync + 'static>(
        self,
        plane: &Arc<Plane<D>>,
        caller: &Caller,
        params: Map<String, Value>,
        ticket: Ticket,
    ) {
        fn job(method: &str, params: Map<String, Value>) -> Result<u64, Failure> {
            understand(method, params).map(|JobNumber { job }| job)
        }
        let result = match self {
            Self::Status => {
                understand("control.status", params).and_then(|NoParams {}| value(&plane.status(caller)))
            }
            Self::JobCancel => {
                job("job.cancel", params).and_then(|job| plane.jobs.cancel(job)).map(|()| Value::Null)
            }
            Self::JobWait => match job("job.wait", params) {
                Ok(job) => return plane.jobs.answer_status(job, caller.connection, ticket),
                Err(failure) => Err(failure),
            },
            Self::Subscribe | Self::Unsubscribe => Err(Failure::failed("events are for connections")),
        };
        ticket.answer(result);
    }
}

fn describe<D: Send + Sync + 'static>(call: &Call<'_, D>, _: NoParams) -> Result<Description, Failure> {
    Ok(call.plane.description().clone())
}

fn job_list<D>(call: &Call<'_, D>, _: NoParams) -> Result<Vec<JobStatus>, Failure> {
    Ok(call.plane.jobs.statuses())
}

fn job_show<D>(call: &Call<'_, D>, JobNumber { job }: JobNumber) -> Result<JobStatus, Failure> {
    call.plane.jobs.status(job)
}

impl<D: Send + Sync + 'static> Plane<D> {
    fn status(&self, caller: &Caller) -> Status {
        Status {
            version: self.about.version.to_owned(),
            pid: std::process::id(),
            instance: self.instance.clone(),
            generation: self.generation(),
            unsaved: self.is_unsaved(),
            role: caller.role,
        }
    }

    /// All that is said of it, which is always the same.
    fn description(&self) -> &Description {
        self.description.get_or_init(|| self.describe())
    }

    fn describe(&self) -> Description {
        let kinds = self.about.all_kinds().into_iter();
        let events =
            kinds.map(|kind| Explained { is: kind.name.to_owned(), summary: kind.summary.to_owned() });
        let errors =
            CODES.iter().map(|(code, _, summary)| Explained { is: *code, summary: (*summary).to_owned() });
        Description { methods: self.table().described(), events: events.collect(), errors: errors.collect() }
    }
}
