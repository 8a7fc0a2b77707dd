//! `ferry sql`: one SELECT over the run history, from the file or through the server.

use anyhow::Context;
use ferry_client::v1;
use ferry_query::{Cell, QueryLimits, Reader};
use serde_json::{Map, Value, json};

use crate::args::SqlArgs;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

/// Rows of a table for people; more are better read as JSON.
const TABLE_ROWS_MAX: usize = 1000;

pub(crate) fn run(args: &SqlArgs, printer: &Printer) -> Result<(), Failure> {
    let table = match &args.store {
        Some(store) => from_file(store, args)?,
        None => from_server(args)?,
    };
    print(&table, printer)
}

/// What a query gives.
pub(crate) struct Answer {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
    pub(crate) truncated: bool,
}

fn from_file(store: &str, args: &SqlArgs) -> Result<Answer, Failure> {
    let location = store.parse().map_err(|why| Failure::Usage(format!("--store: {why}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let limits = QueryLimits { rows: args.rows_max, ..Default::default() };
    runtime.block_on(async {
        let rows = Reader::new(location, 1).query(&args.query, limits).await;
        let rows = rows.map_err(anyhow::Error::new)?;
        let columns = rows.columns().to_vec();
        let all = rows.all().await.map_err(anyhow::Error::new)?;
        let rows = all.iter().map(|row| row.iter().map(cell).collect()).collect();
        Ok(Answer { columns, rows, truncated: false })
    })
}

fn cell(cell: &Cell) -> Value {
    serde_json::to_value(cell).unwrap_or(Value::Null)
}

fn from_server(args: &SqlArgs) -> Result<Answer, Failure> {
    let client = control::connect(&args.server)?;
    ask(&client, &args.query, args.rows_max)
}

/// Asks the server.
pub(crate) fn ask(
    client: &ferry_client::blocking::Client,
    sql: &str,
    rows_max: u64,
) -> Result<Answer, Failure> {
    let request = v1::QueryRequest { sql: sql.to_owned(), rows_max };
    client.run(async {
        let mut stream = control::runs(client).query(request).await?.into_inner();
        let mut answer = Answer { columns: Vec::new(), rows: Vec::new(), truncated: false };
        while let Some(part) = stream.message().await? {
            if !part.columns.is_empty() {
                answer.columns = part.columns;
            }
            answer.truncated |= part.truncated;
            let rows = part.rows.into_iter();
            answer.rows.extend(rows.map(|row| row.values.into_iter().map(value).collect()));
        }
        Ok(answer)
    })
}

fn value(value: v1::Value) -> Value {
    use v1::value::Kind;
    match value.kind {
        None => Value::Null,
        Some(Kind::Integer(number)) => json!(number),
        Some(Kind::Real(number)) => json!(number),
        Some(Kind::Text(text)) => json!(text),
        Some(Kind::Blob(bytes)) => {
            json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    }
}

/// Prints an answer: JSON objects, one per row, or a table.
pub(crate) fn print(answer: &Answer, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        for row in &answer.rows {
            let pairs = answer.columns.iter().cloned().zip(row.iter().cloned());
            printer.json(&Value::Object(pairs.collect::<Map<_, _>>()))?;
        }
    } else {
        let head: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
        let text = |value: &Value| match value {
            Value::Null => "–".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let shown = answer.rows.iter().take(TABLE_ROWS_MAX);
        let rows: Vec<_> = shown.map(|row| row.iter().map(text).collect()).collect();
        printer.table(&head, &rows)?;
        if answer.rows.len() > TABLE_ROWS_MAX {
            printer.say(&format!("{} rows in all; --json prints them", answer.rows.len()));
        }
    }
    if answer.truncated {
        printer.say("there are more rows: add LIMIT, or raise --rows-max");
    }
    Ok(())
}
