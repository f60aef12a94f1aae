// JDBC behind HikariCP: a connection for each request, its transaction begun by choosing the tenant, as Spring's do it.
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

public class App {
    static final Map<String, HikariDataSource> pools = new HashMap<>();

    public static void main(String[] args) throws Exception {
        for (String login : Served.LOGINS) {
            pools.put(login, Served.pool(login, false));
        }
        Served.serve(App::handle);
    }

    static List<Served.Order> handle(String tenant, int number) throws SQLException {
        try (Connection connection = pools.get(Served.login(tenant)).getConnection()) {
            if (Served.GATEWAY) {
                try (PreparedStatement choose = connection.prepareStatement("SELECT set_config('app.tenant_id', ?, true)")) {
                    choose.setString(1, tenant);
                    choose.execute();
                }
            }
            List<Served.Order> rows = new ArrayList<>();
            try (PreparedStatement read = connection.prepareStatement("SELECT tenant_id, id, note FROM orders WHERE id <= ? ORDER BY id")) {
                read.setInt(1, 10);
                try (ResultSet found = read.executeQuery()) {
                    while (found.next()) {
                        rows.add(new Served.Order(found.getString(1), found.getInt(2), found.getString(3)));
                    }
                }
            }
            try (PreparedStatement write = connection.prepareStatement("INSERT INTO items (id, n) VALUES (?, ?)")) {
                write.setInt(1, number);
                write.setInt(2, rows.size());
                write.executeUpdate();
            }
            connection.commit();
            return rows;
        }
    }
}
