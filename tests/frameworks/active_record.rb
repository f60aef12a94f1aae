# Rails' ActiveRecord: a transaction for each request, begun by choosing the tenant.
require "active_record"
require "json"
require "socket"

GATEWAY = ENV["APP_USER"] == "gateway"
SIZE = Integer(ENV["APP_POOL"])

def config(user, size)
  { adapter: "postgresql", host: "127.0.0.1", port: ENV["DB_PORT"], database: "app", username: user, password: "#{user}-secret",
    pool: size, checkout_timeout: 30, sslmode: "disable" }
end

class Acme < ActiveRecord::Base
  self.abstract_class = true
  establish_connection(config(GATEWAY ? "api" : "acme_app", GATEWAY ? SIZE : SIZE / 2))
end

class Globex < ActiveRecord::Base
  self.abstract_class = true
  establish_connection(config("globex_app", SIZE / 2)) unless GATEWAY
end

class AcmeOrder < Acme
  self.table_name = "orders"
end

class GlobexOrder < Globex
  self.table_name = "orders"
end

def handle(tenant, id)
  order = GATEWAY || tenant == "acme" ? AcmeOrder : GlobexOrder
  order.connection_pool.with_connection do |connection|
    order.transaction do
      connection.exec_query("SELECT set_config('app.tenant_id', $1, true)", "tenant", [[nil, tenant]], prepare: true) if GATEWAY
      rows = order.where("id <= ?", 10).order(:id).map { |one| { tenant_id: one.tenant_id, id: one.read_attribute(:id), note: one.note } }
      connection.exec_update("INSERT INTO items (id, n) VALUES ($1, $2)", "item", [[nil, id], [nil, rows.size]])
      rows
    end
  end
end

def talk(line)
  while (request = line.gets)
    _, tenant, id = request.split[1].split("/")
    nil until line.gets.strip.empty?
    begin
      told = { rows: handle(tenant, id.to_i) }
    rescue StandardError => error
      told = { error: "#{error.class}: #{error.message}" }
    end
    body = JSON.generate(told)
    line.write("HTTP/1.1 200 OK\r\nContent-Length: #{body.bytesize}\r\n\r\n#{body}")
  end
ensure
  line.close
end

server = TCPServer.new("127.0.0.1", Integer(ENV["APP_PORT"]))
server.listen(200)
loop { Thread.new(server.accept) { |line| talk(line) } }
