// Does with pgx what with_workers.py asks for; its statements are cached by text.
package main

import (
	"bufio"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

const rows, failsAt = 2000, 10

var clients = map[string]*pgx.Conn{}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		told := map[string]interface{}{}
		values, err := act(context.Background(), strings.Fields(lines.Text()))
		if err != nil {
			told["error"], told["text"] = "other", err.Error()
			var refused *pgconn.PgError
			if errors.As(err, &refused) {
				told["error"] = refused.Code
			}
		} else {
			told["values"] = values
		}
		line, _ := json.Marshal(told)
		fmt.Println(string(line))
	}
}

func act(ctx context.Context, words []string) (map[string]string, error) {
	name := words[1]
	if words[0] == "open" {
		tenant := words[2]
		client, err := pgx.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%s dbname=app user=%s_app password=%s_app-secret sslmode=disable connect_timeout=5",
			os.Getenv("DRIVERS_PORT"), tenant, tenant))
		clients[name] = client
		return map[string]string{}, err
	}
	client := clients[name]
	switch words[0] {
	case "read":
		return first(ctx, client, "SELECT a FROM moving WHERE id = $1")
	case "star":
		return first(ctx, client, "SELECT * FROM moving WHERE id = $1")
	case "write":
		id, _ := strconv.Atoi(words[2])
		_, err := client.Exec(ctx, "INSERT INTO moving (id, a) VALUES ($1, $2)", id, 42)
		return map[string]string{}, err
	}
	times, _ := strconv.Atoi(words[2])
	return copies(ctx, client, times)
}

func first(ctx context.Context, client *pgx.Conn, sql string) (map[string]string, error) {
	found, err := client.Query(ctx, sql, 1)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	told := map[string]string{}
	for found.Next() {
		values, err := found.Values()
		if err != nil {
			return nil, err
		}
		for at, value := range values {
			if valuer, is := value.(driver.Valuer); is {
				value, _ = valuer.Value()
			}
			told[string(found.FieldDescriptions()[at].Name)] = fmt.Sprint(value)
		}
	}
	return told, found.Err()
}

func copies(ctx context.Context, client *pgx.Conn, times int) (map[string]string, error) {
	note, failed := strings.Repeat("x", 100), 0
	for turn := 0; turn < times; turn++ {
		source := pgx.CopyFromSlice(rows, func(n int) ([]interface{}, error) {
			id := n
			if n == failsAt+1 {
				id = failsAt
			}
			return []interface{}{int32(id), int32(n), note}, nil
		})
		_, err := client.CopyFrom(ctx, pgx.Identifier{"items_in"}, []string{"id", "n", "note"}, source)
		var refused *pgconn.PgError
		// pgconn 1 does not wait for its writer when a COPY has failed: the last rows of it may come behind the next COPY's
		// Query, which fails for that (22P04), direct as well.
		if !errors.As(err, &refused) || (refused.Code != "23505" && refused.Code != "22P04") {
			return nil, fmt.Errorf("COPY %d: %w", turn, err)
		}
		failed++
	}
	var left int64
	err := client.QueryRow(ctx, "SELECT count(*) FROM items").Scan(&left)
	return map[string]string{"failed": strconv.Itoa(failed), "left": strconv.FormatInt(left, 10)}, err
}
