// What the Java applications share: their settings, an HTTP server around one function, and HikariCP's pools.
import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.sql.SQLException;
import java.util.List;
import java.util.stream.Collectors;

class Served {
    static final boolean GATEWAY = "gateway".equals(System.getenv("APP_USER"));
    static final String[] LOGINS = GATEWAY ? new String[] {"api"} : new String[] {"acme_app", "globex_app"};

    record Order(String tenant, int id, String note) {
        String json() {
            return String.format("{\"tenant_id\": \"%s\", \"id\": %d, \"note\": \"%s\"}", tenant, id, note);
        }
    }

    interface Handler {
        List<Order> handle(String tenant, int number) throws Exception;
    }

    static String login(String tenant) {
        return GATEWAY ? "api" : tenant + "_app";
    }

    /** A pool of one of the logins. */
    static HikariDataSource pool(String login, boolean autoCommit) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://127.0.0.1:" + System.getenv("DB_PORT") + "/app?sslmode=disable");
        config.setUsername(login);
        config.setPassword(login + "-secret");
        config.setMaximumPoolSize(Integer.parseInt(System.getenv("APP_POOL")) / LOGINS.length);
        config.setAutoCommit(autoCommit);
        return new HikariDataSource(config);
    }

    /** GET /TENANT/ID answers with the rows that the handler gives, or with its error. */
    static void serve(Handler handler) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(System.getenv("APP_PORT"))), 200);
        server.setExecutor(java.util.concurrent.Executors.newFixedThreadPool(50));
        server.createContext("/", exchange -> {
            String[] words = exchange.getRequestURI().getPath().split("/");
            int status = 200;
            String told;
            try {
                List<Order> rows = handler.handle(words[1], Integer.parseInt(words[2]));
                told = "{\"rows\": [" + rows.stream().map(Order::json).collect(Collectors.joining(", ")) + "]}";
            } catch (Exception error) {
                status = 500;
                told = "{\"error\": \"" + describe(error).replaceAll("[\\s\"\\\\]+", " ") + "\"}";
            }
            byte[] body = told.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, body.length);
            try (OutputStream out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();
    }

    /** The error with its SQLSTATE, which an ORM wraps. */
    private static String describe(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof SQLException) {
                return ((SQLException) cause).getSQLState() + ": " + cause.getMessage();
            }
        }
        return error.toString();
    }
}
