//! The console's answers in pgwire's terms: simple and extended queries, all columns as text or bigint.

use std::fmt::Debug;
use std::sync::Arc;

use futures::{Sink, stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;

use super::Operator;
use super::command::{Command, Show};
use super::table::{CellValue, ColumnType, Table};

/// A statement: what was read, once.
#[derive(Debug, Clone)]
pub(super) struct ParsedCommand(Command);

/// Reads statements for the extended protocol.
#[derive(Debug)]
pub(super) struct Reader;

pub(super) fn refusal(sqlstate: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), sqlstate.to_owned(), message)))
}

fn read(text: &str) -> PgWireResult<Option<Command>> {
    Command::read(text).map_err(|what| {
        let mut info = ErrorInfo::new("ERROR".to_owned(), "42601".to_owned(), what);
        info.hint = Some("SHOW HELP lists what the console does.".to_owned());
        PgWireError::UserError(Box::new(info))
    })
}

fn fields(show: Show, format: impl Fn(usize) -> FieldFormat) -> Vec<FieldInfo> {
    let field = |(place, (name, kind)): (usize, &(&str, ColumnType))| {
        let datatype = match kind {
            ColumnType::Text => Type::TEXT,
            ColumnType::Number => Type::INT8,
        };
        FieldInfo::new((*name).to_owned(), None, None, datatype, format(place))
    };
    show.columns().iter().enumerate().map(field).collect()
}

fn rows(table: Table, fields: Vec<FieldInfo>) -> PgWireResult<Response> {
    let fields = Arc::new(fields);
    let mut encoded = Vec::with_capacity(table.rows.len());
    let mut writer = DataRowEncoder::new(Arc::clone(&fields));
    for row in table.rows {
        for value in &row {
            match value {
                CellValue::Null => writer.encode_field(&None::<&str>)?,
                CellValue::Text(text) => writer.encode_field(text)?,
                CellValue::Number(number) => writer.encode_field(number)?,
            }
        }
        encoded.push(Ok(writer.take_row()));
    }
    let mut response = QueryResponse::new(fields, stream::iter(encoded));
    response.set_command_tag("SHOW");
    Ok(Response::Query(response))
}

impl Operator {
    async fn carry_out(
        &self,
        command: Command,
        format: impl Fn(usize) -> FieldFormat,
    ) -> PgWireResult<Response> {
        if let Command::Show(show) = command {
            return rows(self.console.show(show), fields(show, format));
        }
        let action = format!("{command:?}");
        let tag = self.console.act(command, &self.who).await.inspect_err(|refused| {
            tracing::info!(target: "audit", who = self.who, action, %refused, "console");
        })?;
        Ok(Response::Execution(Tag::new(tag)))
    }
}

#[async_trait::async_trait]
impl SimpleQueryHandler for Operator {
    async fn do_query<C>(&self, _client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match read(query)? {
            None => Ok(vec![Response::EmptyQuery]),
            Some(command) => Ok(vec![self.carry_out(command, |_| FieldFormat::Text).await?]),
        }
    }
}

#[async_trait::async_trait]
impl QueryParser for Reader {
    type Statement = ParsedCommand;

    async fn parse_sql<C>(
        &self,
        _client: &C,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<ParsedCommand>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        Ok(read(sql)?.map(ParsedCommand))
    }

    fn get_parameter_types(&self, _statement: &ParsedCommand) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(
        &self,
        statement: &ParsedCommand,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let format = |place| format.map_or(FieldFormat::Text, |format| format.format_for(place));
        match &statement.0 {
            Command::Show(show) => Ok(fields(*show, format)),
            _ => Ok(Vec::new()),
        }
    }
}

#[async_trait::async_trait]
impl ExtendedQueryHandler for Operator {
    type Statement = ParsedCommand;
    type QueryParser = Reader;

    fn query_parser(&self) -> Arc<Reader> {
        Arc::new(Reader)
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        portal: &Portal<ParsedCommand>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = ParsedCommand>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let format = &portal.result_column_format;
        self.carry_out(portal.statement.statement.0.clone(), |place| format.format_for(place)).await
    }
}
