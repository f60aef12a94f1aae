// JDBC behind HikariCP: a connection for each request, its transaction begun by choosing the tenant, as Spring's do it.
import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Executors;

public class App {
    static final boolean GATEWAY = "gateway".equals(System.getenv("APP_USER"));
    static final Map<String, HikariDataSource> pools = new HashMap<>();

    public static void main(String[] args) throws Exception {
        String[] logins = GATEWAY ? new String[] {"api"} : new String[] {"acme_app", "globex_app"};
        for (String login : logins) {
            HikariConfig config = new HikariConfig();
            config.setJdbcUrl("jdbc:postgresql://127.0.0.1:" + System.getenv("DB_PORT") + "/app?sslmode=disable");
            config.setUsername(login);
            config.setPassword(login + "-secret");
            config.setMaximumPoolSize(Integer.parseInt(System.getenv("APP_POOL")) / logins.length);
            config.setAutoCommit(false);
            pools.put(login, new HikariDataSource(config));
        }
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("APP_PORT"))), 200);
        server.setExecutor(Executors.newFixedThreadPool(50));
        server.createContext("/", exchange -> {
            String[] words = exchange.getRequestURI().getPath().split("/");
            int status = 200;
            String told;
            try {
                told = "{\"rows\": [" + handle(words[1], Integer.parseInt(words[2])) + "]}";
            } catch (SQLException error) {
                status = 500;
                told = "{\"error\": \"" + error.getSQLState() + ": " + error.getMessage().replaceAll("[\\s\"\\\\]+", " ") + "\"}";
            }
            byte[] body = told.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, body.length);
            try (OutputStream out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();
    }

    static String handle(String tenant, int number) throws SQLException {
        try (Connection connection = pools.get(GATEWAY ? "api" : tenant + "_app").getConnection()) {
            if (GATEWAY) {
                try (PreparedStatement choose = connection.prepareStatement("SELECT set_config('app.tenant_id', ?, true)")) {
                    choose.setString(1, tenant);
                    choose.execute();
                }
            }
            StringBuilder rows = new StringBuilder();
            int count = 0;
            try (PreparedStatement read = connection.prepareStatement("SELECT tenant_id, id, note FROM orders WHERE id <= ? ORDER BY id")) {
                read.setInt(1, 10);
                try (ResultSet found = read.executeQuery()) {
                    while (found.next()) {
                        rows.append(count++ > 0 ? ", " : "").append("{\"tenant_id\": \"").append(found.getString(1)).append("\", \"id\": ")
                            .append(found.getInt(2)).append(", \"note\": \"").append(found.getString(3)).append("\"}");
                    }
                }
            }
            try (PreparedStatement write = connection.prepareStatement("INSERT INTO items (id, n) VALUES (?, ?)")) {
                write.setInt(1, number);
                write.setInt(2, count);
                write.executeUpdate();
            }
            connection.commit();
            return rows.toString();
        }
    }
}
