//! The members of an etcd cluster. One of them is asked; when it is dead, mute or without a leader,
//! the next one is.
//!
//! tonic's own balancer hands requests to members that do not answer too, so that one dead member of
//! two fails every other request.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error, StatusResponse};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};
use tracing::{info, warn};

/// How long a connection may take to come up, and an answer of a member about itself.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// How long one call may take when the member shows meanwhile that it is alive.
const CALL: Duration = Duration::from_secs(30);

/// After so long without an answer a member is asked whether it is alive.
const QUIET: Duration = Duration::from_secs(2);

/// How long the other members may take to greet once one has.
const OTHERS: Duration = Duration::from_secs(1);

/// How long members without a leader are waited for at first: an election takes one to three seconds.
const ELECTION: Duration = Duration::from_secs(5);

/// How long a call goes from member to member when none of several answers: by then there is no quorum.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same where only one member is known: it may be restarted, and reads its log first.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(30);

/// The first pause after no member has answered; each following one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The members that are known, and the one that is asked.
pub(super) struct Members {
    all: Vec<Member>,
    current: AtomicUsize,
    options: ConnectOptions,
}

struct Member {
    endpoint: String,
    client: OnceCell<Client>,
    /// Whether it was told that this one does not answer.
    silent: AtomicBool,
}

/// What the members said of themselves.
pub(super) struct Greeting {
    /// The first that can be worked with.
    pub(super) status: StatusResponse,
    /// Those that cannot, and why.
    pub(super) silent: Vec<String>,
}

impl Members {
    /// Nothing is connected yet.
    pub(super) fn new(endpoints: &[String], options: ConnectOptions) -> Self {
        let options = options
            .with_connect_timeout(ANSWER)
            .with_timeout(CALL)
            // A member without a leader says so instead of waiting for one.
            .with_require_leader(true)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            .with_auto_token_refresh(true);
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            client: OnceCell::new(),
            silent: AtomicBool::new(false),
        };
        Self {
            all: endpoints.iter().map(member).collect(),
            current: AtomicUsize::new(0),
            options,
        }
    }

    /// Asks every member who it is, and chooses one to work with. Ends at once when none answers; an
    /// election is waited for.
    ///
    /// # Errors
    ///
    /// What a member refuses, else that none answers, with what each said. Members of several clusters
    /// are [`Error::InvalidArgs`].
    pub(super) async fn greet(&self) -> Result<Greeting, Error> {
        let give_up = Instant::now() + ELECTION;
        loop {
            let mut answers = self.ask_all().await;
            self.of_one_cluster(&answers)?;
            let usable = |answer: &Result<StatusResponse, Error>| answer.is_ok();
            if let Some(at) = answers.iter().position(usable) {
                self.current.store(at, Ordering::Relaxed);
                let mut silent = Vec::new();
                for (member, answer) in self.all.iter().zip(&answers) {
                    if let Err(error) = answer {
                        silent.push(format!("{}: {}", member.endpoint, said(error)));
                        member.pass_over(error);
                    }
                }
                let status = answers.swap_remove(at)?;
                return Ok(Greeting { status, silent });
            }
            let failed = answers.into_iter().filter_map(Result::err);
            let (passing, mut others): (Vec<_>, Vec<_>) = failed.partition(is_passing);
            if !others.is_empty() {
                return Err(others.swap_remove(0));
            }
            if !passing.iter().any(is_without_leader) || Instant::now() >= give_up {
                return Err(self.none_answers(passing.iter().map(|e| Some(said(e)))));
            }
            sleep(PAUSE).await;
        }
    }

    /// What each member says of itself, in their order. A learner is none that can be worked with.
    pub(super) async fn ask_all(&self) -> Vec<Result<StatusResponse, Error>> {
        let mut asked: FuturesUnordered<_> = self
            .all
            .iter()
            .enumerate()
            .map(|(at, member)| async move { (at, self.ask(member).await) })
            .collect();
        let late = || Err(deadline("it does not answer"));
        let mut answers: Vec<_> = self.all.iter().map(|_| late()).collect();
        let mut end = Instant::now() + 2 * ANSWER;
        while let Ok(Some((at, answer))) = timeout_at(end, asked.next()).await {
            if answer.is_ok() {
                end = end.min(Instant::now() + OTHERS);
            }
            answers[at] = answer;
        }
        answers
    }

    async fn ask(&self, member: &Member) -> Result<StatusResponse, Error> {
        let mut client = self.client(member).await?;
        let status = Box::pin(client.status()).await?;
        if status.is_learner() {
            return Err(unavailable("it is a learner, which serves nobody"));
        }
        Ok(status)
    }

    fn of_one_cluster(&self, answers: &[Result<StatusResponse, Error>]) -> Result<(), Error> {
        let cluster = |answer: &Result<StatusResponse, Error>| {
            let header = answer.as_ref().ok()?.header()?;
            Some(header.cluster_id())
        };
        let mut known = self
            .all
            .iter()
            .zip(answers)
            .filter_map(|(member, answer)| Some((&member.endpoint, cluster(answer)?)));
        let Some((first, id)) = known.next() else {
            return Ok(());
        };
        match known.find(|(_, other)| *other != id) {
            None => Ok(()),
            Some((other, _)) => Err(Error::InvalidArgs(format!(
                "{first} and {other} are members of two clusters"
            ))),
        }
    }

    /// Makes a call that may be made twice, on one member after another until one answers.
    ///
    /// # Errors
    ///
    /// What etcd answers; that no member does, with what each said.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut attempts = self.attempts();
        loop {
            match attempts.attempt(&call).await {
                Ok(done) => return Ok(done),
                Err(error) => attempts.go_on(error).await?,
            }
        }
    }

    /// For a call that needs a look between two attempts.
    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts {
            members: self,
            at: 0,
            said: self.all.iter().map(|_| None).collect(),
            left: self.all.len(),
            began: None,
            pause: PAUSE,
        }
    }

    async fn client(&self, member: &Member) -> Result<Client, Error> {
        let connect = || async {
            // With a user this asks for a token.
            let connected = Client::connect([&member.endpoint], Some(self.options.clone()));
            timeout(2 * ANSWER, connected)
                .await
                .unwrap_or_else(|_| Err(deadline("it does not answer")))
        };
        Box::pin(member.client.get_or_try_init(connect))
            .await
            .cloned()
    }

    fn none_answers(&self, said: impl Iterator<Item = Option<String>>) -> Error {
        let all: Vec<_> = self
            .all
            .iter()
            .zip(said)
            .map(|(member, said)| {
                let said = said.unwrap_or_else(|| "it was not asked".to_owned());
                format!("{}: {said}", member.endpoint)
            })
            .collect();
        unavailable(match &all[..] {
            [one] => one.clone(),
            _ => format!("no member can be worked with: {}", all.join("; ")),
        })
    }
}

impl Member {
    /// Tells once that this member does not answer.
    fn pass_over(&self, error: &Error) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            warn!("etcd at {} is passed over: {}", self.endpoint, said(error));
        }
    }

    fn answered(&self) {
        if self.silent.swap(false, Ordering::Relaxed) {
            info!("etcd at {} answers again", self.endpoint);
        }
    }
}

/// The attempts of one call.
pub(super) struct Attempts<'a> {
    members: &'a Members,
    /// The member of the newest attempt.
    at: usize,
    said: Vec<Option<String>>,
    /// Members that are still to be asked before there is a pause.
    left: usize,
    /// When the first attempt had failed.
    began: Option<Instant>,
    pause: Duration,
}

impl Attempts<'_> {
    /// Makes the call on the current member. An attempt whose member goes mute is given up.
    pub(super) async fn attempt<T, F>(&mut self, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.at = self.members.current.load(Ordering::Relaxed);
        let member = &self.members.all[self.at];
        let client = self.members.client(member).await?;
        // The client's futures are large, and everything above would be as large.
        let done = tokio::select! {
            biased;
            done = Box::pin(call(client.clone())) => done,
            error = Box::pin(goes_mute(client)) => Err(error),
        };
        if done.is_ok() {
            member.answered();
        }
        done
    }

    /// After an attempt failed: turns to another member, after a pause when all have been asked.
    ///
    /// # Errors
    ///
    /// `error` when no other attempt would help; that no member answers when the time is over.
    pub(super) async fn go_on(&mut self, error: Error) -> Result<(), Error> {
        if !is_passing(&error) {
            return Err(error);
        }
        let all = self.members.all.len();
        let next = (self.at + 1) % all;
        // Another call may have turned to another member already.
        let turned = self.members.current.compare_exchange(
            self.at,
            next,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if turned.is_ok() {
            self.members.all[self.at].pass_over(&error);
        }
        self.said[self.at] = Some(said(&error));
        let patience = if all == 1 {
            PATIENCE_WITH_ONE
        } else {
            PATIENCE
        };
        let began = *self.began.get_or_insert_with(Instant::now);
        self.left -= 1;
        if self.left == 0 {
            if began.elapsed() >= patience {
                return Err(self.members.none_answers(self.said.drain(..)));
            }
            sleep(self.pause).await;
            self.pause = (2 * self.pause).min(LONGEST_PAUSE);
            self.left = all;
        }
        Ok(())
    }
}

/// Ends when the member does not answer within [`QUIET`] and then does not say what it is either, or has
/// no leader.
async fn goes_mute(mut client: Client) -> Error {
    loop {
        sleep(QUIET).await;
        match timeout(ANSWER, client.status()).await {
            Err(_) => return deadline("it does not answer"),
            Ok(Err(error)) if is_passing(&error) => return error,
            Ok(_) => {}
        }
    }
}

/// Whether another attempt, on another member or later, may succeed.
pub(super) fn is_passing(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => {
            // What the connection failed with is the source of a status that no server sent.
            std::error::Error::source(status).is_some()
                || matches!(
                    status.code(),
                    Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
                )
                || status.message().contains("too many requests")
        }
        // A stream that ended without an answer is a watch error to the client.
        Error::TransportError(_) | Error::IoError(_) | Error::WatchError(_) => true,
        _ => false,
    }
}

fn is_without_leader(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("no leader"))
}

/// What a member said, or what the connection to it failed with, for people: of the reasons under it the
/// last tells most.
pub(super) fn said(error: &Error) -> String {
    let (text, mut source) = match error {
        Error::GRpcStatus(status) if is_without_leader(error) => {
            return format!("it has no leader ({})", status.message());
        }
        Error::GRpcStatus(status) => (
            status.message().to_owned(),
            std::error::Error::source(status),
        ),
        Error::TransportError(error) => (error.to_string(), std::error::Error::source(error)),
        Error::InvalidArgs(text) => (text.clone(), None),
        _ => (error.to_string(), None),
    };
    let mut last = None;
    while let Some(reason) = source {
        last = Some(reason.to_string());
        source = reason.source();
    }
    match last {
        Some(last) if !text.contains(&last) => format!("{text}: {last}"),
        _ => text,
    }
}

fn deadline(what: &str) -> Error {
    Error::GRpcStatus(Status::deadline_exceeded(what))
}

fn unavailable(what: impl Into<String>) -> Error {
    Error::GRpcStatus(Status::unavailable(what))
}
