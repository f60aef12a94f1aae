<?php
// PHP's PDO with persistent connections: a transaction for each request, begun by choosing the tenant.
header('Content-Type: application/json');
[, $tenant, $id] = explode('/', $_SERVER['REQUEST_URI']);
$isGateway = getenv('APP_USER') === 'gateway';
$user = $isGateway ? 'api' : "{$tenant}_app";
try {
    $db = new PDO('pgsql:host=127.0.0.1;dbname=app;sslmode=disable;port=' . getenv('DB_PORT'), $user, "$user-secret", [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_PERSISTENT => true,
    ]);
    $db->beginTransaction();
    try {
        if ($isGateway) {
            $db->prepare("SELECT set_config('app.tenant_id', ?, true)")->execute([$tenant]);
        }
        $read = $db->prepare('SELECT tenant_id, id, note FROM orders WHERE id <= ? ORDER BY id');
        $read->execute([10]);
        $rows = $read->fetchAll(PDO::FETCH_ASSOC);
        $db->prepare('INSERT INTO items (id, n) VALUES (?, ?)')->execute([(int) $id, count($rows)]);
        $db->commit();
    } catch (Throwable $error) {
        $db->rollBack();
        throw $error;
    }
    echo json_encode(['rows' => array_map(fn ($row) => ['id' => (int) $row['id']] + $row, $rows)]);
} catch (Throwable $error) {
    http_response_code(500);
    echo json_encode(['error' => $error->getMessage()]);
}
