//! What the demo shows through the proxy, and what must hold for each part of it.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::{Client, error::SqlState};

use super::error::{DemoError, asking, explain};
use super::narrator::Narrator;
use super::proxy::{Ports, Proxy};
use super::sample::{DATABASE, Sample, SampleTenant, connect, login};

/// The same statement for every tenant: it names none.
const ORDERS: &str = "SELECT o.tenant_id, c.name AS customer, o.item, o.cents \
                      FROM orders o JOIN customers c ON c.id = o.customer_id ORDER BY o.id";
/// How often two tenants take turns on the one server connection.
const ROUNDS: usize = 200;
/// What `PostgreSQL` and the guard say to somebody who may not.
const REFUSED: &SqlState = &SqlState::INSUFFICIENT_PRIVILEGE;

/// One tenant with its connection through the proxy.
struct Visitor<'a> {
    tenant: &'a SampleTenant,
    client: Client,
}

/// Shows and checks everything.
pub(super) async fn tell(narrator: &mut Narrator, proxy: &Proxy, sample: &Sample) -> Result<(), DemoError> {
    let [acme, globex] = &sample.tenants;
    narrator.step("Each tenant logs in with its own user and runs the same SQL, which names no tenant")?;
    let acme = visit(proxy.port(), acme).await?;
    let globex = visit(proxy.port(), globex).await?;
    for visitor in [&acme, &globex] {
        show_own_rows(narrator, visitor).await?;
    }
    compare_servers(narrator, &acme, &globex).await?;

    narrator.step("Both at once, over the same server connection")?;
    take_turns(narrator, &acme, &globex).await?;

    narrator.step("acme writes without naming a tenant; globex does not notice")?;
    write_own_row(narrator, &acme, &globex).await?;

    narrator.step("acme attacks")?;
    attack(narrator, &acme, sample, proxy.port()).await?;
    check_own_rows(&acme).await?;
    check_own_rows(&globex).await?;
    narrator.held("afterwards each still sees its own rows and nothing else")?;

    narrator.step("What Prometheus reads")?;
    show_metrics(narrator, proxy, sample).await
}

/// Prints what somebody at a terminal can do next.
pub(super) fn say_how_to_go_on(
    narrator: &mut Narrator,
    ports: Ports,
    sample: &Sample,
) -> Result<(), DemoError> {
    narrator.step("Try it yourself")?;
    let Ports { server, clients, metrics } = ports;
    let line = |user: &str, password: &str, port| {
        format!("       PGPASSWORD={password} psql -h 127.0.0.1 -p {port} -U {user} -d {DATABASE}")
    };
    for tenant in &sample.tenants {
        narrator.line(&format!("   as {}, through pgtenant:", tenant.id))?;
        narrator.line(&line(tenant.user, &tenant.password, clients))?;
    }
    narrator
        .line("   past pgtenant, as the application's role (no tenant context, so an error and no rows):")?;
    narrator.line(&line("app", &sample.app, server))?;
    narrator.line("   metrics:")?;
    narrator.line(&format!("       curl -s http://127.0.0.1:{metrics}/metrics | grep tenant="))?;
    narrator.line("   what this version does not hold against yet: README, \"Where it ends\"")
}

async fn visit(port: u16, tenant: &SampleTenant) -> Result<Visitor<'_>, DemoError> {
    let login = login(port, tenant.user, &tenant.password, DATABASE);
    let client = connect(&login, &format!("logging in as {}", tenant.user)).await?;
    Ok(Visitor { tenant, client })
}

impl Visitor<'_> {
    async fn ask(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, DemoError> {
        self.client.simple_query(sql).await.map_err(asking(&format!("{} runs: {sql}", self.tenant.id)))
    }
}

/// The values of one column, in order.
fn column<'a>(answer: &'a [SimpleQueryMessage], name: &str) -> Vec<&'a str> {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.filter_map(|row| row.get(name)).collect()
}

fn broken(promise: String) -> DemoError {
    DemoError::DidNotHold(promise)
}

async fn show_own_rows(narrator: &Narrator, visitor: &Visitor<'_>) -> Result<(), DemoError> {
    let id = visitor.tenant.id;
    let answer = check_own_rows(visitor).await?;
    narrator.held(&format!("{id} sees its own rows only"))?;
    narrator.table(&answer)
}

async fn check_own_rows(visitor: &Visitor<'_>) -> Result<Vec<SimpleQueryMessage>, DemoError> {
    let id = visitor.tenant.id;
    let answer = visitor.ask(ORDERS).await?;
    let tenants = column(&answer, "tenant_id");
    let are_its_own = !tenants.is_empty() && tenants.iter().all(|&tenant| tenant == id);
    if !are_its_own {
        return Err(broken(format!("{id} sees its own rows only, but saw {tenants:?}")));
    }
    Ok(answer)
}

async fn compare_servers(
    narrator: &Narrator,
    one: &Visitor<'_>,
    other: &Visitor<'_>,
) -> Result<(), DemoError> {
    let sql = "SELECT pg_backend_pid() AS pid";
    let answers = [one.ask(sql).await?, other.ask(sql).await?];
    let [mine, theirs] = answers.each_ref().map(|answer| column(answer, "pid"));
    if mine.is_empty() || mine != theirs {
        return Err(broken(format!(
            "both tenants share one server connection, but pids are {mine:?} and {theirs:?}"
        )));
    }
    narrator.held(&format!("both were served by the same PostgreSQL process, {}", mine.concat()))
}

/// Both tenants ask at the same time, again and again, by the extended protocol and inside transactions.
async fn take_turns(narrator: &Narrator, one: &Visitor<'_>, other: &Visitor<'_>) -> Result<(), DemoError> {
    let (mine, theirs) = tokio::try_join!(ask_repeatedly(one), ask_repeatedly(other))?;
    let rows = mine + theirs;
    narrator.held(&format!(
        "{} transactions, {rows} rows: every row belonged to the tenant that asked",
        2 * ROUNDS
    ))
}

async fn ask_repeatedly(visitor: &Visitor<'_>) -> Result<usize, DemoError> {
    let id = visitor.tenant.id;
    let mut seen = 0;
    for round in 0..ROUNDS {
        let explicit = round % 2 == 0;
        if explicit {
            visitor.ask("BEGIN").await?;
        }
        let rows = visitor.client.query("SELECT tenant_id FROM orders WHERE cents > $1", &[&0_i64]).await;
        let rows = rows.map_err(asking(&format!("{id} runs a prepared statement")))?;
        if explicit {
            visitor.ask("COMMIT").await?;
        }
        let are_its_own = !rows.is_empty() && rows.iter().all(|row| row.get::<_, &str>(0) == id);
        if !are_its_own {
            return Err(broken(format!("in round {round} {id} sees its own rows only")));
        }
        seen += rows.len();
    }
    Ok(seen)
}

async fn write_own_row(
    narrator: &Narrator,
    writer: &Visitor<'_>,
    witness: &Visitor<'_>,
) -> Result<(), DemoError> {
    let before = column(&witness.ask(ORDERS).await?, "item").len();
    let answer = writer.ask("INSERT INTO orders (customer_id, item, cents) VALUES (1, 'tunnel paint', 1995) RETURNING tenant_id, item").await?;
    let id = writer.tenant.id;
    if column(&answer, "tenant_id") != [id] {
        return Err(broken(format!("a row that {id} writes is its own")));
    }
    narrator.table(&answer)?;
    let after = column(&witness.ask(ORDERS).await?, "item").len();
    if before != after {
        return Err(broken(format!("{} sees as many orders as before", witness.tenant.id)));
    }
    narrator.held(&format!("{} still sees {after} orders", witness.tenant.id))
}

/// Every attempt is made on acme's own connection, which must go on working.
async fn attack(
    narrator: &Narrator,
    acme: &Visitor<'_>,
    sample: &Sample,
    port: u16,
) -> Result<(), DemoError> {
    for sql in [
        "SET app.tenant_id = 'globex'",
        "SELECT set_config('app.tenant_id', 'globex', false)",
        "SET ROLE app_owner",
        "DO $$ BEGIN PERFORM set_config('app.tenant_id', 'globex', false); END $$",
        "INSERT INTO orders (tenant_id, customer_id, item, cents) VALUES ('globex', 3, 'gift', 1)",
    ] {
        expect_refusal(narrator, acme, sql).await?;
    }
    for sql in [
        "SELECT * FROM orders WHERE tenant_id = 'globex'",
        "UPDATE orders SET cents = 0 WHERE tenant_id = 'globex' RETURNING *",
    ] {
        let rows = column(&acme.ask(sql).await?, "tenant_id").len();
        if rows != 0 {
            return Err(broken(format!("nothing is found by {sql}, but {rows} rows were")));
        }
        narrator.held(&format!("{sql}\n         (0 rows)"))?;
    }
    forge(narrator, acme).await?;
    expect_login_failure(narrator, sample, port).await
}

/// A function of the database sets the setting, which no guard can see; the register still names acme.
async fn forge(narrator: &Narrator, acme: &Visitor<'_>) -> Result<(), DemoError> {
    let sql = "SELECT refresh_cache('globex') AS tenant_id";
    let rows = "SELECT tenant_id FROM orders";
    acme.ask("BEGIN").await?;
    if column(&acme.ask(sql).await?, "tenant_id") != ["globex"] {
        return Err(broken("code of the database can set the setting".to_owned()));
    }
    let seen = acme.client.simple_query(rows).await;
    acme.ask("ROLLBACK").await?;
    let Err(error) = seen else {
        return Err(broken("a forged setting shows nothing, but the query was answered".to_owned()));
    };
    let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
    if error.code() != Some(&code) {
        return Err(broken(format!(
            "a forged setting is refused with {}, but: {}",
            code.code(),
            explain(&error)
        )));
    }
    narrator.held(&format!(
        "{sql}; {rows}\n         the setting says globex, the register does not: {}",
        explain(&error)
    ))
}

async fn expect_refusal(narrator: &Narrator, visitor: &Visitor<'_>, sql: &str) -> Result<(), DemoError> {
    let code = REFUSED.code();
    let Err(error) = visitor.client.simple_query(sql).await else {
        return Err(broken(format!("{sql} is refused with {code}, but it was run")));
    };
    let said = explain(&error);
    if error.code() != Some(REFUSED) {
        return Err(broken(format!("{sql} is refused with {code}, but: {said}")));
    }
    narrator.held(&format!("{sql}\n         {}", said.replace('\n', "\n         ")))
}

/// The tenant is proven by the credential: naming another tenant's user is not enough.
async fn expect_login_failure(narrator: &Narrator, sample: &Sample, port: u16) -> Result<(), DemoError> {
    let [acme, globex] = &sample.tenants;
    let what = format!("user {} with the password of {}", globex.user, acme.user);
    match connect(&login(port, globex.user, &acme.password, DATABASE), &what).await {
        Ok(_) => Err(broken(format!("nobody logs in as {what}"))),
        Err(DemoError::Sql { source, .. }) if source.code() == Some(&SqlState::INVALID_PASSWORD) => {
            narrator.held(&format!("logging in as {what}\n         {}", explain(&source)))
        }
        Err(other) => Err(other),
    }
}

async fn show_metrics(narrator: &Narrator, proxy: &Proxy, sample: &Sample) -> Result<(), DemoError> {
    let text = proxy.metrics().await?;
    for tenant in &sample.tenants {
        let labels = format!("tenant=\"{}\"", tenant.id);
        let count = format!("pgtenant_query_duration_seconds_count{{{labels}}} ");
        let queries: Option<f64> =
            text.lines().find_map(|line| line.strip_prefix(&count)?.trim().parse().ok());
        if queries.is_none_or(|queries| queries <= 0.0) {
            return Err(broken(format!("queries of {} are timed", tenant.id)));
        }
    }
    for line in text.lines().filter(|line| is_worth_showing(line)) {
        narrator.line(&format!("       {line}"))?;
    }
    narrator.held("latency histograms per tenant")
}

/// A slice: each tenant's latency without the buckets, its errors, and the servers.
fn is_worth_showing(line: &str) -> bool {
    let Some((name, labels)) = line.split_once('{') else { return false };
    match name {
        "pgtenant_query_duration_seconds_sum"
        | "pgtenant_query_duration_seconds_count"
        | "pgtenant_queue_wait_seconds_sum"
        | "pgtenant_errors_total" => !labels.starts_with("tenant=\"_"),
        _ => name == "pgtenant_servers",
    }
}
