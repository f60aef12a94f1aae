// Does with JDBC what with_workers.py asks for; statements stay prepared, on the server from their first use.
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class Worker {
    static final int ROWS = 2000, FAILS_AT = 10;
    static final Map<String, Connection> clients = new HashMap<>();
    static final Map<String, PreparedStatement> prepared = new HashMap<>();

    public static void main(String[] args) throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String told;
            try {
                told = "{\"values\": {" + join(act(line.split(" "))) + "}}";
            } catch (SQLException error) {
                told = "{\"error\": " + quoted(error.getSQLState()) + ", \"text\": " + quoted(error.getMessage()) + "}";
            }
            System.out.println(told);
        }
    }

    static Map<String, Object> act(String[] words) throws SQLException, IOException {
        String name = words[1];
        if (words[0].equals("open")) {
            String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("DRIVERS_PORT")
                + "/app?prepareThreshold=1&sslmode=disable&connectTimeout=5&socketTimeout=20";
            clients.put(name, DriverManager.getConnection(url, words[2] + "_app", words[2] + "_app-secret"));
            return Map.of();
        }
        switch (words[0]) {
            case "read":
                return first(statement(name, "SELECT a FROM moving WHERE id = ?"));
            case "star":
                return first(statement(name, "SELECT * FROM moving WHERE id = ?"));
            case "write":
                PreparedStatement write = statement(name, "INSERT INTO moving (id, a) VALUES (?, ?)");
                write.setInt(1, Integer.parseInt(words[2]));
                write.setLong(2, 42);
                write.executeUpdate();
                return Map.of();
            default:
                return copy(clients.get(name), Integer.parseInt(words[2]));
        }
    }

    static PreparedStatement statement(String name, String sql) throws SQLException {
        String key = name + sql;
        if (!prepared.containsKey(key)) {
            prepared.put(key, clients.get(name).prepareStatement(sql));
        }
        return prepared.get(key);
    }

    static Map<String, Object> first(PreparedStatement statement) throws SQLException {
        statement.setInt(1, 1);
        Map<String, Object> found = new LinkedHashMap<>();
        try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            for (int at = 1; at <= rows.getMetaData().getColumnCount(); at++) {
                found.put(rows.getMetaData().getColumnName(at), rows.getObject(at));
            }
        }
        return found;
    }

    static Map<String, Object> copy(Connection client, int times) throws SQLException, IOException {
        StringBuilder rows = new StringBuilder();
        for (int n = 0; n < ROWS; n++) {
            rows.append(n == FAILS_AT + 1 ? FAILS_AT : n).append('\t').append(n).append('\t').append("x".repeat(100)).append('\n');
        }
        CopyManager manager = client.unwrap(PGConnection.class).getCopyAPI();
        int failed = 0;
        for (int turn = 0; turn < times; turn++) {
            try {
                manager.copyIn("COPY items_in (id, n, note) FROM STDIN", new StringReader(rows.toString()));
            } catch (SQLException error) {
                if (!"23505".equals(error.getSQLState())) {
                    throw error;
                }
                failed++;
            }
        }
        try (ResultSet left = client.createStatement().executeQuery("SELECT count(*) FROM items")) {
            left.next();
            return Map.of("failed", failed, "left", left.getLong(1));
        }
    }

    static String join(Map<String, Object> values) {
        StringBuilder all = new StringBuilder();
        values.forEach((key, value) -> all.append(all.length() > 0 ? ", " : "").append(quoted(key)).append(": ").append(quoted(String.valueOf(value))));
        return all.toString();
    }

    static String quoted(String text) {
        return text == null ? "null" : "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\s+", " ") + "\"";
    }
}
