//! `pgtenant protect`: the SQL that a database lacks, shown or applied.
//! Exit codes: 0 nothing to do or applied, 1 something is missing or failed, 2 usage or configuration.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{complain, on_runtime, say};
use crate::config::{self, Config, Problem};
use crate::control;
use crate::directory::{ContextMode, Grant, Maintenance};
use crate::names::UpstreamName;
use crate::protect::{self, Enter, Hardening, Plan, ProtectError, ProtectOptions, Sql};
use crate::upstream::settings::UpstreamSettings;

/// What may be asked.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "questions with yes or no for an answer")]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The upstream, if there are several.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// The maintenance user whose server role installs, if there are several.
    #[arg(long, value_name = "MAINTENANCE_USER")]
    user: Option<String>,
    /// A table; may be given again. Without one: every table with the column that the login role can reach.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// The column that names a row's tenant.
    #[arg(long, value_name = "COLUMN", default_value = "tenant_id")]
    column: String,
    /// Only the tables of users and tenants, in the database of [directory]; needs no seal key.
    #[arg(long, conflicts_with_all = ["table", "retire_keys", "retire_enter", "upstream"])]
    directory: bool,
    /// Install what is missing, all or nothing.
    #[arg(long)]
    apply: bool,
    /// Take away every key but the configured one.
    #[arg(long)]
    retire_keys: bool,
    /// Serve instances of earlier versions no longer, when there are none.
    #[arg(long)]
    retire_enter: bool,
}

/// Whether anything changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Show,
    Apply,
}

/// Where, as whom and with what.
struct Task {
    upstream: UpstreamSettings,
    maintenance: Maintenance,
    work: Work,
}

enum Work {
    /// What keeps tenants apart in shared tables.
    Protection(Box<ProtectOptions>),
    /// The tables that this role reads.
    Directory(String),
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => return complain(&problems.to_string(), 2),
    };
    let task = match task(&config, arguments) {
        Ok(task) => task,
        Err(problem) => return complain(&problem.to_string(), 2),
    };
    let mode = if arguments.apply { Mode::Apply } else { Mode::Show };
    on_runtime(async move {
        match work(&task, mode).await {
            Ok((report, 0)) => say(&report),
            Ok((report, code)) => {
                say(&report);
                ExitCode::from(code)
            }
            Err(error @ ProtectError::Refused(_)) => complain(&error.to_string(), 2),
            Err(error) => complain(&error.to_string(), 1),
        }
    })
}

async fn work(task: &Task, mode: Mode) -> Result<(String, u8), ProtectError> {
    let Task { upstream, maintenance, work } = task;
    let role = &maintenance.server_user;
    let client =
        control::connect(upstream, role, maintenance.server_password.as_ref()).await.map_err(|error| {
            ProtectError::Refused(format!("upstream {}, role {role}: {error}", upstream.name))
        })?;
    let (plan, hardening) = match (work, mode) {
        (Work::Protection(options), Mode::Show) => {
            (protect::plan(&client, options).await?, protect::missing_hardening(&client, options).await?)
        }
        (Work::Protection(options), Mode::Apply) => {
            (protect::apply(&client, options).await?, protect::harden(&client, options).await?)
        }
        (Work::Directory(reader), Mode::Show) => {
            (protect::directory_plan(&client, reader).await?, Hardening::default())
        }
        (Work::Directory(reader), Mode::Apply) => {
            (protect::apply_directory(&client, reader).await?, Hardening::default())
        }
    };
    let whose = match work {
        Work::Protection(options) => format!("login role {}", options.role),
        Work::Directory(reader) => format!("read by {reader}"),
    };
    let place =
        format!("upstream {}, database {}, installed by {role}, {whose}", upstream.name, upstream.database);
    let is_done = plan.steps.is_empty() && hardening.steps.is_empty();
    let code = u8::from(!plan.blocked.is_empty() || !(is_done || mode == Mode::Apply));
    Ok((report(&place, (&plan, &hardening), mode), code))
}

fn report(place: &str, (plan, hardening): (&Plan, &Hardening), mode: Mode) -> String {
    let mut text = format!("-- {place}\n");
    line(&mut text, &head((plan, hardening), mode));
    let mut part = "";
    for step in &plan.steps {
        if step.part != part {
            part = &step.part;
            line(&mut text, &format!("\n-- {part}"));
        }
        line(&mut text, &step.sql.to_string());
    }
    if !hardening.steps.is_empty() {
        line(&mut text, "\n-- hardening");
    }
    for step in &hardening.steps {
        line(&mut text, &format!("{step};"));
    }
    if !hardening.left.is_empty() {
        line(&mut text, "\n-- left to the guard, because the installing role may not:");
    }
    for step in &hardening.left {
        line(&mut text, &format!("--   {step}"));
    }
    for note in &plan.notes {
        line(&mut text, &format!("-- note: {note}"));
    }
    // Last, where a terminal shows it.
    for blocked in &plan.blocked {
        line(&mut text, &format!("-- NOT PROTECTED: {blocked}"));
    }
    text
}

/// What the report begins with: what is so, before what it is made of.
fn head((plan, hardening): (&Plan, &Hardening), mode: Mode) -> String {
    let is_empty = plan.steps.is_empty() && hardening.steps.is_empty();
    let is_whole = plan.blocked.is_empty();
    match (mode, is_empty, is_whole) {
        (_, true, true) => "-- nothing to do".to_owned(),
        (_, true, false) => "-- NOT PROTECTED, and nothing to do that this role may: see the end".to_owned(),
        (Mode::Apply, false, true) => "-- done:".to_owned(),
        (Mode::Apply, false, false) => {
            "-- done, but this is not all: see NOT PROTECTED at the end. Done:".to_owned()
        }
        (Mode::Show, false, _) => {
            let rest = if is_whole { "" } else { ", but for NOT PROTECTED at the end" };
            let has_key = plan.steps.iter().any(|step| step.sql == Sql::AddKey);
            let key = if has_key { " -v seal_key=KEY, where KEY is tenancy.seal_key" } else { "" };
            format!("-- missing; --apply does it{rest}. With psql: -1{key}")
        }
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}

fn task(config: &Config, arguments: &Arguments) -> Result<Task, Problem> {
    if arguments.directory {
        return directory_task(config, arguments);
    }
    let tenancy = &config.directory.tenancy;
    let is_sealed = tenancy.context != ContextMode::Plain;
    if arguments.retire_keys && !is_sealed {
        let hint = "set tenancy.context = \"sealed\" and tenancy.seal_key";
        return Err(problem("--retire-keys", "a plain context has no keys", hint));
    }
    let upstream = upstream(config, arguments)?;
    let maintenance = maintenance(config, arguments, upstream)?;
    // Under a plain context the canary reads a table of the operator's.
    let canary = config.canary.as_ref().filter(|_| is_sealed).filter(|canary| {
        let first = config.directory.tenants.get(&canary.tenants[0]);
        first.is_some_and(|tenant| tenant.upstream == upstream.name)
    });
    let options = ProtectOptions {
        role: upstream.user.clone(),
        roles: config.directory.roles().into_iter().collect(),
        setting: tenancy.setting.clone(),
        context: tenancy.context.clone(),
        column: arguments.column.clone(),
        tables: arguments.table.clone(),
        canary: canary.map(|canary| canary.tenants.clone()),
        retire_keys: arguments.retire_keys,
        enter: if arguments.retire_enter { Enter::Retired } else { Enter::Kept },
    };
    Ok(Task { upstream: upstream.clone(), maintenance, work: Work::Protection(Box::new(options)) })
}

fn directory_task(config: &Config, arguments: &Arguments) -> Result<Task, Problem> {
    let Some(login) = config.tables.as_ref().map(|tables| &tables.login) else {
        let hint = "add [directory] with user = the role that reads the tables";
        return Err(problem("directory", "there is no section [directory]", hint));
    };
    let upstream = &config.upstreams[&login.upstream];
    let maintenance = maintenance(config, arguments, upstream)?;
    let upstream = upstream.in_database(login.database.as_deref());
    Ok(Task { upstream, maintenance, work: Work::Directory(login.user.clone()) })
}

fn upstream<'a>(config: &'a Config, arguments: &Arguments) -> Result<&'a UpstreamSettings, Problem> {
    let names: Vec<&str> = config.upstreams.keys().map(UpstreamName::as_str).collect();
    let known = format!("known: {}", names.join(", "));
    let mut all = config.upstreams.values();
    match (&arguments.upstream, all.next(), all.next()) {
        (Some(name), ..) => config
            .upstreams
            .get(name.as_str())
            .ok_or_else(|| problem("--upstream", &format!("there is no upstream {name:?}"), &known)),
        (None, Some(only), None) => Ok(only),
        (None, ..) => Err(problem("--upstream", "there are several upstreams", &known)),
    }
}

fn maintenance(
    config: &Config,
    arguments: &Arguments,
    upstream: &UpstreamSettings,
) -> Result<Maintenance, Problem> {
    let mut users: Vec<(&str, &Maintenance)> = config
        .directory
        .users
        .values()
        .filter_map(|user| match &user.grant {
            Grant::Maintenance(maintenance) if maintenance.upstream == upstream.name => {
                Some((user.name.as_str(), maintenance))
            }
            _ => None,
        })
        .collect();
    users.sort_by_key(|(name, _)| *name);
    let names: Vec<&str> = users.iter().map(|(name, _)| *name).collect();
    let hint = if names.is_empty() {
        "add a [[user]] with maintenance = { upstream = …, server_user = the role that owns the tables }"
            .to_owned()
    } else {
        format!("known: {}", names.join(", "))
    };
    match (&arguments.user, users.as_slice()) {
        (Some(wanted), _) => users
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, maintenance)| (*maintenance).clone())
            .ok_or_else(|| {
                problem("--user", &format!("{wanted:?} is no maintenance user of this upstream"), &hint)
            }),
        (None, [(_, only)]) => Ok((*only).clone()),
        (None, []) => Err(problem("user", "no maintenance user of this upstream", &hint)),
        (None, _) => Err(problem("--user", "there are several maintenance users", &hint)),
    }
}

fn problem(place: &str, what: &str, hint: &str) -> Problem {
    Problem { place: place.to_owned(), line: None, what: what.to_owned(), hint: hint.to_owned() }
}
