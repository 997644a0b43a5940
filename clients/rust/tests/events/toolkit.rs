//! The scenarios of `tests/conformance/toolkit`, which the toolkits of all clients run. Its README describes the shop.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use outbox_harness::wait_until;
use pg_outbox::events::command::into_error;
use pg_outbox::events::project::BoxError;
use pg_outbox::events::{
    Actions, Aggregate, Command, CommandBus, CommandError, EventStore, Fault, FieldEncryption, LocalKeys, Metadata,
    NewEvent, ProjectionEngine, RecordedEvent, Repository, Retry, Root, Saga, SagaManager, Selection, Upcasters,
    middleware,
};
use pg_outbox::tokio_postgres::types::Type;
use pg_outbox::worker::CancellationToken;
use pg_outbox::{Error, Outbox};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::shop::{PATIENCE, outbox};
use crate::suite::{check, files, fill, text};

/// The result of a step. Its error is one of the outbox, or a refusal of the shop.
type Outcome<T = Value> = Result<T, CommandError>;

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
enum OrderEvent {
    #[serde(rename = "order.placed")]
    Placed {
        /// None: the key of the customer was revoked.
        customer: Option<String>,
        total: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pay_within: Option<f64>,
    },
    #[serde(rename = "order.changed")]
    Changed { total: i64 },
    #[serde(rename = "order.paid")]
    Paid { by: String },
}

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    status: String,
    total: i64,
}

impl Default for Order {
    fn default() -> Order {
        Order { status: "new".to_owned(), total: 0 }
    }
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed { total, .. } => *self = Order { status: "placed".to_owned(), total },
            OrderEvent::Changed { total } => self.total = total,
            OrderEvent::Paid { .. } => "paid".clone_into(&mut self.status),
        }
    }
}

fn place(order: &mut Root<Order>, customer: &str, total: i64, pay_within: Option<f64>) -> Outcome<()> {
    if order.status != "new" {
        return Err(CommandError::rejected("the order exists"));
    }
    Ok(order.raise(OrderEvent::Placed { customer: Some(customer.to_owned()), total, pay_within })?)
}

fn open(order: &Root<Order>) -> Outcome<()> {
    match order.status.as_str() {
        "placed" => Ok(()),
        status => Err(CommandError::rejected(format!("the order is {status}"))),
    }
}

fn change(order: &mut Root<Order>, total: i64) -> Outcome<()> {
    open(order)?;
    Ok(order.raise(OrderEvent::Changed { total })?)
}

fn pay(order: &mut Root<Order>, by: &str) -> Outcome<()> {
    open(order)?;
    Ok(order.raise(OrderEvent::Paid { by: by.to_owned() })?)
}

/// Calls methods of an order, each of which is a list of its name and its arguments.
fn decide(order: &mut Root<Order>, calls: &Value) -> Outcome<()> {
    for call in calls.as_array().unwrap() {
        match call[0].as_str().unwrap() {
            "place" => place(order, call[1].as_str().unwrap(), call[2].as_i64().unwrap(), call[3].as_f64())?,
            "change" => change(order, call[1].as_i64().unwrap())?,
            "pay" => pay(order, call[1].as_str().unwrap())?,
            other => panic!("unknown method {other}"),
        }
    }
    Ok(())
}

fn state(order: &Root<Order>) -> Value {
    json!({"version": order.version(), "state": **order})
}

/// A command of the shop, with the key that a step gives it.
#[derive(Serialize, Deserialize)]
struct PlaceOrder {
    id: String,
    customer: String,
    total: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pay_within: Option<f64>,
    #[serde(skip)]
    key: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct PayOrder {
    id: String,
    by: String,
    #[serde(skip)]
    key: Option<String>,
}

/// A command without a handler.
#[derive(Serialize)]
struct LoseOrder {}

#[derive(Serialize, Deserialize)]
struct Decided {
    version: i64,
}

impl Command for PlaceOrder {
    const TYPE: &'static str = "order.place";
    type Output = Decided;

    fn idempotency_key(&self) -> Option<String> {
        self.key.clone()
    }
}

impl Command for PayOrder {
    const TYPE: &'static str = "order.pay";
    type Output = Decided;

    fn idempotency_key(&self) -> Option<String> {
        self.key.clone()
    }
}

impl Command for LoseOrder {
    const TYPE: &'static str = "order.lose";
    type Output = Decided;
}

#[derive(Default, Serialize, Deserialize)]
struct Payment {}

impl Saga for Payment {
    const TYPE: &'static str = "payment";
    const STEPS: &'static [&'static str] = &["reserve", "pay"];

    fn starts_with(event_type: &str) -> bool {
        event_type == "order.placed"
    }

    fn correlation(event: &RecordedEvent) -> Option<String> {
        Some(event.stream_id().to_owned())
    }

    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError> {
        match event.event_type.as_str() {
            "order.placed" => {
                let seconds = event.data["pay_within"].as_f64().ok_or("the order has no term")?;
                actions.step_done();
                actions.timeout("unpaid", Duration::try_from_secs_f64(seconds)?)?;
            }
            "order.paid" => {
                actions.step_done();
                actions.send("shipment.request", &json!({"order": event.stream_id()}))?;
                actions.complete();
            }
            _ => {}
        }
        Ok(())
    }

    fn compensate(&mut self, step: &str, actions: &mut Actions) -> Result<(), BoxError> {
        if step == "reserve" {
            let order = json!({"order": actions.saga_id});
            actions.send("stock.release", &order)?;
        }
        Ok(())
    }

    fn timed_out(&mut self, _: &str, actions: &mut Actions) -> Result<(), BoxError> {
        actions.fail("not paid in time");
        Ok(())
    }
}

fn upcasters_of(list: &Value) -> Result<Upcasters, Error> {
    let mut upcasters = Upcasters::new();
    for upcaster in list.as_array().unwrap() {
        let (rename, set) = (upcaster["rename"].clone(), upcaster["set"].as_object().cloned().unwrap_or_default());
        let from = u32::try_from(upcaster["from"].as_u64().unwrap()).unwrap();
        upcasters = upcasters.add(text(upcaster, "type").unwrap(), from, move |mut data| {
            let fields = data.as_object_mut().unwrap();
            let value = fields.remove(rename[0].as_str().unwrap()).unwrap();
            fields.insert(rename[1].as_str().unwrap().to_owned(), value);
            fields.extend(set.clone());
            Ok(data)
        })?;
    }
    upcasters.checked()
}

fn encryption_of(settings: &Value) -> Result<FieldEncryption, Error> {
    let keys = LocalKeys::new().key("m", &[7; 32])?;
    let mut encryption =
        FieldEncryption::new(keys, "m").per_subject(|event| event.data["customer"].as_str().map(str::to_owned));
    for (event_type, paths) in settings["fields"].as_object().unwrap() {
        let paths: Vec<&str> = paths.as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        encryption = encryption.fields(event_type, &paths)?;
    }
    Ok(encryption)
}

fn metadata_of(entries: &Value) -> Metadata {
    let entries = entries.as_object().into_iter().flatten();
    entries.fold(Metadata::new(), |metadata, (name, value)| match name.as_str() {
        "tenant" => metadata.tenant(value.as_str().unwrap()),
        _ => metadata.set(name, value.clone()),
    })
}

fn shown(event: &RecordedEvent) -> Value {
    json!({"stream": event.stream, "version": event.version, "type": event.event_type, "data": event.data,
        "metadata": event.metadata, "tenant": event.tenant, "redacted": event.redacted})
}

async fn revenue(
    tx: &deadpool_postgres::Transaction<'_>,
    events: &[RecordedEvent],
    negative: bool,
) -> Result<(), BoxError> {
    for event in events.iter().filter(|event| !event.data.is_null()) {
        let total = event.data["total"].as_i64();
        if total.is_some_and(|total| total < 0) && !negative {
            return Err("a negative total".into());
        }
        let sql = match event.event_type.as_str() {
            "order.placed" => "insert into revenue values ($1, $2::int8, 1)",
            "order.changed" => "update revenue set total = $2::int8, times = times + 1 where stream = $1",
            _ => continue,
        };
        tx.execute(sql, &[&event.stream, &total]).await?;
    }
    Ok(())
}

struct Shop {
    outbox: Outbox,
    plain: EventStore,
    store: EventStore,
    orders: Repository<Order>,
    bus: CommandBus<Outbox>,
}

impl Shop {
    fn new(outbox: Outbox, settings: &Map<String, Value>) -> Result<Shop, Error> {
        let (mut store, mut snapshots) = (EventStore::new(), None);
        for (name, value) in settings {
            match name.as_str() {
                "upcasters" => store = store.upcasters(upcasters_of(value)?),
                "encryption" => store = store.encryption(encryption_of(value)?),
                "snapshot_every" => snapshots = value.as_u64().and_then(|every| u32::try_from(every).ok()),
                "description" | "steps" => {}
                other => panic!("unknown setting {other}"),
            }
        }
        let retry = Retry { wait: Duration::from_millis(10), ..Retry::default() };
        let mut orders = Repository::new(store.clone()).retry(retry);
        if let Some(every) = snapshots {
            orders = orders.snapshot_every(every, 1);
        }
        let (placing, paying) = (orders.clone(), orders.clone());
        let bus = CommandBus::new(outbox.clone())
            .layer(middleware::retry(retry))
            .layer(middleware::correlation())
            .layer(middleware::idempotency(middleware::Idempotency::default()))
            .register::<PlaceOrder>(move |tx, command| {
                let orders = placing.clone();
                Box::pin(async move {
                    let mut order = orders.load(&*tx, &command.id).await?;
                    place(&mut order, &command.customer, command.total, command.pay_within)?;
                    orders.save(&*tx, &mut order).await?;
                    Ok(Decided { version: order.version() })
                })
            })?
            .register::<PayOrder>(move |tx, command| {
                let orders = paying.clone();
                Box::pin(async move {
                    let mut order = orders.load(&*tx, &command.id).await?;
                    pay(&mut order, &command.by)?;
                    orders.save(&*tx, &mut order).await?;
                    Ok(Decided { version: order.version() })
                })
            })?;
        Ok(Shop { outbox, plain: EventStore::new(), store, orders, bus })
    }

    /// Runs one step and returns its result.
    async fn run(&self, what: &str, args: &Value) -> Outcome {
        match what {
            "decide" => self.decide(text(args, "id").unwrap(), &args["calls"]).await,
            "race" => self.race(args).await,
            "append" => self.append(args).await,
            "load" => {
                let session = self.outbox.session().await?;
                let from = args["from_version"].as_i64().unwrap_or(1);
                let events = self.store.load(&**session, text(args, "stream").unwrap(), from).await?;
                Ok(events.iter().map(shown).collect())
            }
            "subscribe" => self.subscribe(args["count"].as_u64().unwrap()).await,
            "command" => self.command(args).await,
            "call" => {
                let rows = self.outbox.call(text(args, "function").unwrap(), &args["args"], &[]).await?;
                Ok(Value::Array(rows))
            }
            "query" => self.query(text(args, "sql").unwrap()).await,
            "project" => self.project(args).await,
            "rebuild" => self.rebuild(args["negative"] == true).await,
            "sagas" => {
                let manager = SagaManager::new(&self.outbox, self.outbox.clone(), self.store.clone());
                manager.register::<Payment>(Selection::all().poll_interval(Duration::from_millis(20)))?;
                self.until(args, async |stop| manager.run_until(stop.cancelled_owned()).await).await
            }
            "store" => {
                let _made = EventStore::new().upcasters(upcasters_of(&args["upcasters"])?);
                Ok(Value::Null)
            }
            other => panic!("unknown operation {other}"),
        }
    }

    async fn decide(&self, id: &str, calls: &Value) -> Outcome {
        let mut session = self.outbox.session().await?;
        let tx = session.transaction().await?;
        let mut order = self.orders.load(&tx, id).await?;
        decide(&mut order, calls)?;
        self.orders.save(&tx, &mut order).await?;
        tx.commit().await?;
        Ok(state(&order))
    }

    /// Decides while another transaction decides and commits.
    async fn race(&self, args: &Value) -> Outcome {
        let id = text(args, "id").unwrap();
        if args["retry"] != true {
            let mut session = self.outbox.session().await?;
            let tx = session.transaction().await?;
            let mut order = self.orders.load(&tx, id).await?;
            self.decide(id, &args["first"]).await?;
            decide(&mut order, &args["second"])?;
            self.orders.save(&tx, &mut order).await?;
            tx.commit().await?;
            return Ok(state(&order));
        }
        let met = Mutex::new(false);
        let decided = |order: &mut Root<Order>| {
            if !std::mem::replace(&mut *met.lock().unwrap(), true) {
                let first = self.decide(id, &args["first"]);
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(first))?;
            }
            decide(order, &args["second"])
        };
        self.orders.execute(&self.outbox, id, decided).await?;
        Ok(state(&self.orders.load(&**self.outbox.session().await?, id).await?))
    }

    async fn append(&self, args: &Value) -> Outcome {
        let events = args["events"].as_array().unwrap().iter().map(|event| {
            let made = NewEvent::new(text(event, "type").unwrap(), &event["data"]).unwrap();
            let made = made.metadata(metadata_of(&event["metadata"]));
            match text(event, "event_id") {
                Some(id) => made.event_id(id),
                None => made,
            }
        });
        let store = if args["plain"] == true { &self.plain } else { &self.store };
        let (stream, expected) = (text(args, "stream").unwrap(), args["expected_version"].as_i64().unwrap());
        let mut session = self.outbox.session().await?;
        let tx = session.transaction().await?;
        let done = store.append(&tx, stream, events, expected).await?;
        tx.commit().await?;
        Ok(json!({"first_version": done.first_version, "last_version": done.last_version, "repeated": done.repeated}))
    }

    async fn subscribe(&self, count: u64) -> Outcome {
        let selection = Selection::all().poll_interval(Duration::from_millis(20));
        let mut events = self.store.subscribe(&self.outbox, selection);
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(shown(&tokio::time::timeout(PATIENCE, events.next()).await.expect("an event")?));
        }
        Ok(Value::Array(seen))
    }

    async fn command(&self, args: &Value) -> Outcome {
        let (data, key) = (args["data"].clone(), text(args, "key").map(str::to_owned));
        let context = metadata_of(&args["context"]);
        let decided = match text(args, "type").unwrap() {
            "order.place" => {
                let command = PlaceOrder { key, ..serde_json::from_value::<PlaceOrder>(data)? };
                context.scope(self.bus.dispatch(command)).await?
            }
            "order.pay" => {
                let command = PayOrder { key, ..serde_json::from_value::<PayOrder>(data)? };
                context.scope(self.bus.dispatch(command)).await?
            }
            "order.lose" => context.scope(self.bus.dispatch(LoseOrder {})).await?,
            other => panic!("unknown command {other}"),
        };
        Ok(serde_json::to_value(decided)?)
    }

    /// Returns the value of a query; null if it has no row.
    async fn query(&self, sql: &str) -> Outcome {
        let rows = self.outbox.session().await?.query_typed(sql, &[]).await?;
        let Some(row) = rows.first() else { return Ok(Value::Null) };
        Ok(match *row.columns()[0].type_() {
            Type::BOOL => json!(row.get::<_, Option<bool>>(0)),
            Type::INT4 => json!(row.get::<_, Option<i32>>(0)),
            _ => row.get::<_, Option<Value>>(0).unwrap_or_default(),
        })
    }

    /// Runs a projection or sagas until the query of a step returns true.
    async fn until(&self, args: &Value, run: impl AsyncFnOnce(CancellationToken) -> Result<(), Error>) -> Outcome {
        // Events get their positions by a tick.
        self.outbox.call("tick", Value::Null, &[]).await?;
        let (stop, sql) = (CancellationToken::new(), text(args, "until").unwrap());
        let mut running = pin!(run(stop.clone()));
        tokio::select! {
            ended = &mut running => panic!("it has ended before: {ended:?}"),
            () = wait_until(sql, PATIENCE, async || self.query(sql).await.unwrap() == true) => stop.cancel(),
        }
        running.await?;
        Ok(Value::Null)
    }

    fn engine(&self, negative: bool) -> Result<ProjectionEngine<Outbox>, Error> {
        let engine = ProjectionEngine::new(&self.outbox, self.outbox.clone(), self.store.clone());
        let selection = Selection::all().types(["order.*"]).batch(2).poll_interval(Duration::from_millis(20));
        engine.register("revenue", selection, move |tx, events| {
            Box::pin(async move { revenue(tx, events, negative).await })
        })?;
        Ok(engine)
    }

    async fn project(&self, args: &Value) -> Outcome {
        let table = "create table if not exists revenue (stream text primary key, total numeric, times int)";
        self.outbox.session().await?.batch_execute(table).await?;
        let engine = self.engine(args["negative"] == true)?;
        self.until(args, async |stop| engine.run_until(stop.cancelled_owned()).await).await
    }

    async fn rebuild(&self, negative: bool) -> Outcome {
        let engine = self.engine(negative)?;
        let last = Mutex::new(None);
        let revenue = engine
            .rebuild_of("revenue", |tx| Box::pin(async move { Ok(tx.batch_execute("delete from revenue").await?) }));
        let told = |name: &str, progress| *last.lock().unwrap() = Some((name.to_owned(), progress));
        engine.rebuild_all([revenue], 1, told).await?;
        let (name, progress) = last.into_inner().unwrap().unwrap();
        Ok(json!({"reported": name == "revenue" && progress.done == progress.total}))
    }
}

fn check_error(error: CommandError, expected: &Value, place: &str) {
    if let Some(rejected) = text(expected, "rejected") {
        assert!(error.to_string().contains(rejected), "{place}: {error}");
        return;
    }
    let error = into_error(error);
    let mut seen = json!({"kind": error.kind().as_str(), "code": error.code(), "name": error.name()});
    if let Some(Fault::Concurrency(conflict)) = Fault::of(&error) {
        seen["stream"] = json!(conflict.stream);
        seen["expected"] = json!(conflict.expected);
        seen["actual"] = json!(conflict.actual);
    }
    check(&seen, expected, place);
}

async fn run(name: &str, scenario: &Value) {
    let shop = Shop::new(outbox(&format!("ev_toolkit_{name}")).await, scenario.as_object().unwrap()).unwrap();
    let mut saved: HashMap<String, Value> = HashMap::new();
    for (i, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
        for key in step.as_object().unwrap().keys() {
            assert!(["do", "args", "expect", "error", "save", "description"].contains(&key.as_str()), "{key}");
        }
        let what = text(step, "do").unwrap();
        let place = format!("{name} step {} ({what})", i + 1);
        let result = shop.run(what, &fill(&step["args"], &saved)).await;
        if let Some(expected) = step.get("error") {
            check_error(result.expect_err(&place), expected, &place);
            continue;
        }
        let result = result.unwrap_or_else(|error| panic!("{place}: {}", into_error(error).report()));
        if let Some(expected) = step.get("expect") {
            check(&result, &fill(expected, &saved), &place);
        }
        if let Some(name) = text(step, "save") {
            saved.insert(name.to_owned(), result);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios() {
    let all = files("toolkit/scenarios");
    assert!(all.len() > 5);
    for (name, scenario) in all {
        run(&name, &scenario).await;
    }
}
