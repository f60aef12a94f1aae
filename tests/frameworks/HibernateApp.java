// Hibernate behind HikariCP: what hands out its connections chooses the tenant by SET and takes the choice back by RESET.
import com.zaxxer.hikari.HikariDataSource;
import java.io.Serializable;
import java.sql.Connection;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;
import javax.persistence.Column;
import javax.persistence.Entity;
import javax.persistence.Id;
import javax.persistence.IdClass;
import javax.persistence.Table;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.Transaction;
import org.hibernate.cfg.Configuration;
import org.hibernate.connection.ConnectionProvider;

public class HibernateApp {
    static final ThreadLocal<String> tenantOfRequest = new ThreadLocal<>();
    static SessionFactory sessions;

    public static class Key implements Serializable {
        String tenant;
        int id;

        @Override
        public boolean equals(Object other) {
            return other instanceof Key && ((Key) other).id == id && ((Key) other).tenant.equals(tenant);
        }

        @Override
        public int hashCode() {
            return 31 * tenant.hashCode() + id;
        }
    }

    @Entity(name = "Order")
    @Table(name = "orders")
    @IdClass(Key.class)
    public static class Order {
        @Id @Column(name = "tenant_id") String tenant;
        @Id int id;
        String note;
    }

    @Entity(name = "Item")
    @Table(name = "items")
    @IdClass(Key.class)
    public static class Item {
        @Id @Column(name = "tenant_id") String tenant;
        @Id int id;
        int n;
    }

    /** What a MultiTenantConnectionProvider does in Hibernate 4 and later. */
    public static class Connections implements ConnectionProvider {
        private final Map<String, HikariDataSource> pools = new HashMap<>();

        @Override
        public void configure(Properties properties) {
            for (String login : Served.LOGINS) {
                pools.put(login, Served.pool(login, true));
            }
        }

        @Override
        public Connection getConnection() throws SQLException {
            String tenant = tenantOfRequest.get();
            Connection connection = pools.get(tenant == null ? Served.LOGINS[0] : Served.login(tenant)).getConnection();
            if (Served.GATEWAY && tenant != null) {
                run(connection, "SET app.tenant_id TO '" + tenant + "'");
            }
            return connection;
        }

        @Override
        public void closeConnection(Connection connection) throws SQLException {
            try (connection) {
                if (Served.GATEWAY) {
                    run(connection, "RESET app.tenant_id");
                }
            }
        }

        private static void run(Connection connection, String sql) throws SQLException {
            try (Statement statement = connection.createStatement()) {
                statement.execute(sql);
            }
        }

        @Override
        public void close() {
            pools.values().forEach(HikariDataSource::close);
        }

        @Override
        public boolean supportsAggressiveRelease() {
            return false;
        }
    }

    public static void main(String[] args) throws Exception {
        sessions = new Configuration().addAnnotatedClass(Order.class).addAnnotatedClass(Item.class)
            .setProperty("hibernate.connection.provider_class", "HibernateApp$Connections")
            .setProperty("hibernate.dialect", "org.hibernate.dialect.PostgreSQLDialect")
            .buildSessionFactory();
        Served.serve(HibernateApp::handle);
    }

    static List<Served.Order> handle(String tenant, int number) {
        tenantOfRequest.set(tenant);
        Session session = sessions.openSession();
        try {
            Transaction transaction = session.beginTransaction();
            List<?> found = session.createQuery("FROM Order o WHERE o.id <= :last ORDER BY o.id").setInteger("last", 10).list();
            Item item = new Item();
            item.tenant = tenant;
            item.id = number;
            item.n = found.size();
            session.save(item);
            transaction.commit();
            return found.stream().map(one -> (Order) one).map(one -> new Served.Order(one.tenant, one.id, one.note)).collect(Collectors.toList());
        } finally {
            session.close();
        }
    }
}
