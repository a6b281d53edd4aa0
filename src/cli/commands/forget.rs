//! `eyrie forget`: which snapshots stay, and forgetting the others.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use crate::base::label::Label;
use crate::cli::context::Context;
use crate::cli::documents::{ForgetDocument, HexId, PolicyDocument, Time, ToldSnapshot};
use crate::cli::output::{Column, Page, Render, count};
use crate::cli::stored::Stored;
use crate::cli::values::SnapshotName;
use crate::config::Resolved;
use crate::config::retention::{Keep, Retention, Rule, Stretch, time_zone};
use crate::repo::Manifest;
use crate::retention::{self, Decision, LastGood, Plan, Planned, Verified};
use crate::{Cause, Error, Result};

/// Forget snapshots by a policy, or by name, and say of each why it stays or goes
///
/// The policy is `retention:` of the configuration; each --keep option replaces one of its rules. What
/// any rule keeps stays. The last good snapshot of an instance always stays. What only forgotten
/// snapshots need is freed by a prune.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Forget these and no others: latest, ids or beginnings of ids
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["rules", "instances", "all_instances"])]
    pub snapshots: Vec<SnapshotName>,

    /// The rules.
    #[command(flatten)]
    pub rules: Rules,

    /// Apply the policy to this instance's snapshots; may be repeated [default: the instance of the configuration]
    #[arg(
        long = "instance",
        value_name = "NAME",
        conflicts_with = "all_instances"
    )]
    pub instances: Vec<String>,

    /// Apply the policy to the snapshots of each instance in the repository
    #[arg(long)]
    pub all_instances: bool,

    /// Let the last good snapshot of an instance go too
    #[arg(long)]
    pub remove_last_good: bool,

    /// Say what would be forgotten, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The rules of a policy on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "rules", multiple = true)]
pub struct Rules {
    /// Keep the last N snapshots; N is a number or `all` here and below
    #[arg(long, value_name = "N")]
    pub keep_last: Option<Keep>,

    /// Keep the newest snapshot of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<Keep>,

    /// The same of days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<Keep>,

    /// The same of weeks, Monday to Sunday
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<Keep>,

    /// The same of months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<Keep>,

    /// The same of years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<Keep>,

    /// Keep all snapshots that are at most this much older than the newest: 36h, 7d, 2w, 6mo, 1y
    #[arg(long, value_name = "TIME")]
    pub keep_within: Option<Stretch>,

    /// Keep all snapshots with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub keep_label: Vec<Label>,

    /// The time zone of hours, days, weeks, months and years [default: UTC]
    #[arg(long, value_name = "NAME", value_parser = time_zone)]
    pub time_zone: Option<TimeZone>,
}

impl Rules {
    /// These rules in place of those of `configured`.
    fn over(&self, configured: Option<&Retention>) -> Retention {
        let mut policy = configured.cloned().unwrap_or_default();
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let given = Rule::ALL.into_iter().zip(counts);
        let given = given.filter_map(|(rule, keep)| Some((rule, keep?)));
        policy.counts.extend(given);
        policy.within = self.keep_within.or(policy.within);
        if !self.keep_label.is_empty() {
            policy.labels.clone_from(&self.keep_label);
        }
        if let Some(zone) = &self.time_zone {
            policy.zone = zone.clone();
        }
        policy
    }
}

/// Forgets snapshots.
///
/// # Errors
///
/// [`Cause::Invalid`] without a policy or an instance to apply it to; [`Cause::Refused`] when the last good
/// snapshot was named; those of [`Stored::open`], [`Stored::find`] and [`retention::forget`].
pub fn run(args: &Args, context: &Context) -> Result<u8> {
    let config = context.config()?;
    let policy = if args.snapshots.is_empty() {
        Some(policy(args, context, &config)?)
    } else {
        None
    };
    let document = context.run(context.cancel.run(async {
        let stored = Stored::open(context, &config).await?;
        let verified = stored.damage_found().await?;
        let plan = match &policy {
            Some(policy) => by_policy(policy, args, &config, &stored, &verified, context)?,
            None => by_name(args, &stored, &verified)?,
        };
        if !args.dry_run {
            retention::forget(&stored.repository, &plan, &verified).await?;
        }
        Ok(document(args.dry_run, policy.as_ref(), &plan))
    }))?;
    context.output.show(&document)?;
    Ok(0)
}

/// The policy in force.
fn policy(args: &Args, context: &Context, config: &Resolved) -> Result<Retention> {
    let repository = context.repository(config)?;
    let policy = args.rules.over(repository.retention.as_ref());
    if policy.is_empty() {
        let message = "no rule says which snapshots are to stay";
        return Err(Error::new(Cause::Invalid, message).with_hint(
            "write `retention:` in the configuration (`eyrie config example` shows one), or add --keep-daily 7",
        ));
    }
    Ok(policy)
}

fn last_good(args: &Args) -> LastGood {
    if args.remove_last_good {
        LastGood::MayGo
    } else {
        LastGood::Stays
    }
}

fn by_policy(
    policy: &Retention,
    args: &Args,
    config: &Resolved,
    stored: &Stored,
    verified: &Verified,
    context: &Context,
) -> Result<Plan> {
    let manifests = &stored.snapshots.manifests;
    let known: BTreeSet<String> = manifests.iter().map(|m| m.instance.clone()).collect();
    let configured = config.instance.as_ref().map(|i| i.name.clone());
    let instances: BTreeSet<String> = match (&args.instances[..], configured) {
        _ if args.all_instances => known,
        ([], Some(configured)) => BTreeSet::from([configured]),
        ([], None) => {
            let message = "the configuration has no `instance:` whose snapshots could be meant";
            return Err(Error::new(Cause::Invalid, message)
                .with_hint("name one by --instance, or add --all-instances"));
        }
        (named, _) => {
            if let Some(unknown) = named.iter().find(|name| !known.contains(*name)) {
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                let message = format!("the repository has no snapshot of instance {unknown:?}");
                let hint = format!("it has some of {}", known.join(", "));
                return Err(Error::new(Cause::NotFound, message).with_hint(hint));
            }
            named.iter().cloned().collect()
        }
    };
    for instance in &instances {
        if let Some(what) = stored.snapshots.out_of_time(Some(instance)) {
            tracing::warn!("{what}");
        }
    }
    let now = context.env.now();
    Ok(Plan::by_policy(
        policy,
        manifests,
        verified,
        &instances,
        last_good(args),
        now,
    ))
}

fn by_name(args: &Args, stored: &Stored, verified: &Verified) -> Result<Plan> {
    let named = args.snapshots.iter().map(|name| stored.find(name));
    let named: Vec<&Manifest> = named.collect::<Result<_>>()?;
    Plan::by_name(
        &named,
        &stored.snapshots.manifests,
        verified,
        last_good(args),
    )
}

fn document(dry_run: bool, policy: Option<&Retention>, plan: &Plan) -> ForgetDocument {
    let told = |planned: &Planned| {
        let manifest = &planned.manifest;
        ToldSnapshot {
            snapshot: HexId(manifest.snapshot.to_string()),
            time: Time(manifest.time),
            instance: manifest.instance.clone(),
            labels: manifest.labels.clone(),
            forgotten: planned.decision.goes(),
            reasons: reasons(&planned.decision, policy),
        }
    };
    let forgotten = plan.going().len();
    ForgetDocument {
        dry_run,
        policy: policy.map(policy_document),
        forgotten: forgotten as u64,
        kept: (plan.snapshots.len() - forgotten) as u64,
        snapshots: plan.snapshots.iter().map(told).collect(),
    }
}

fn reasons(decision: &Decision, policy: Option<&Retention>) -> Vec<String> {
    match (decision, policy) {
        (Decision::Stay(why), _) => why.iter().map(ToString::to_string).collect(),
        (Decision::Go(_), None) => vec!["named".to_owned()],
        (Decision::Go(why), Some(_)) if why.is_empty() => vec!["no rule keeps it".to_owned()],
        (Decision::Go(why), Some(_)) => why.iter().map(ToString::to_string).collect(),
    }
}

fn policy_document(policy: &Retention) -> PolicyDocument {
    let keep = policy.counts.iter();
    let keep = keep.map(|(rule, keep)| (rule.name().to_owned(), keep.to_string()));
    PolicyDocument {
        keep: keep.collect::<BTreeMap<_, _>>(),
        within: policy.within.map(|within| within.to_string()),
        labels: policy.labels.iter().map(ToString::to_string).collect(),
        time_zone: policy.zone_name().to_owned(),
    }
}

impl Render for PolicyDocument {
    fn render(&self, page: &mut Page) {
        let order = Rule::ALL.iter().map(|rule| rule.name());
        let rules = order.filter_map(|rule| Some(format!("{} {rule}", self.keep.get(rule)?)));
        let within = self.within.iter().map(|within| format!("within {within}"));
        let labels = self.labels.iter().map(|label| format!("label {label}"));
        let all: Vec<String> = rules.chain(within).chain(labels).collect();
        page.line(format!(
            "policy: {} (time zone {})",
            all.join(", "),
            self.time_zone
        ));
    }
}

impl Render for ForgetDocument {
    fn render(&self, page: &mut Page) {
        if let Some(policy) = &self.policy {
            policy.render(page);
        }
        if self.snapshots.is_empty() {
            page.line("no snapshots");
            return;
        }
        let columns = [
            Column::text("snapshot"),
            Column::text("time"),
            Column::text("instance"),
            Column::text(""),
            Column::text("why"),
        ];
        let rows = self.snapshots.iter().map(|s| {
            vec![
                s.snapshot.short().to_owned(),
                s.time.to_second(),
                s.instance.clone(),
                (if s.forgotten { "goes" } else { "stays" }).to_owned(),
                s.reasons.join("; "),
            ]
        });
        page.table(&columns, rows);
        let stay = match &self.policy {
            Some(_) => format!(", {} stay", self.kept),
            None => String::new(),
        };
        let forgotten = count(self.forgotten, "snapshot");
        page.line(match (self.dry_run, self.forgotten) {
            (_, 0) => format!("nothing to forget{stay}"),
            (true, _) => format!("would forget {forgotten}{stay}"),
            (false, _) => {
                format!("forgot {forgotten}{stay}; eyrie prune frees what only they needed")
            }
        });
    }
}
