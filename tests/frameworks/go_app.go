// Go's database/sql with lib/pq or pgx: a transaction for each request, begun by choosing the tenant.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	_ "github.com/jackc/pgx/v4/stdlib"
	_ "github.com/lib/pq"
)

type order struct {
	Tenant string `json:"tenant_id"`
	ID     int    `json:"id"`
	Note   string `json:"note"`
}

var isGateway = os.Getenv("APP_USER") == "gateway"

func open(driver, user string, size int) *sql.DB {
	db, err := sql.Open(driver, fmt.Sprintf("postgres://%s:%s-secret@127.0.0.1:%s/app?sslmode=disable", user, user, os.Getenv("DB_PORT")))
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db
}

func handle(ctx context.Context, db *sql.DB, tenant string, id int) ([]order, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	if isGateway {
		if _, err := tx.ExecContext(ctx, "SELECT set_config('app.tenant_id', $1, true)", tenant); err != nil {
			return nil, err
		}
	}
	found, err := tx.QueryContext(ctx, "SELECT tenant_id, id, note FROM orders WHERE id <= $1 ORDER BY id", 10)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	orders := []order{}
	for found.Next() {
		var one order
		if err := found.Scan(&one.Tenant, &one.ID, &one.Note); err != nil {
			return nil, err
		}
		orders = append(orders, one)
	}
	if err := found.Err(); err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO items (id, n) VALUES ($1, $2)", id, len(orders)); err != nil {
		return nil, err
	}
	return orders, tx.Commit()
}

func main() {
	size, _ := strconv.Atoi(os.Getenv("APP_POOL"))
	pools := map[string]*sql.DB{}
	if isGateway {
		pools["acme"] = open(os.Args[1], "api", size)
		pools["globex"] = pools["acme"]
	} else {
		pools["acme"] = open(os.Args[1], "acme_app", size/2)
		pools["globex"] = open(os.Args[1], "globex_app", size/2)
	}
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		words := strings.Split(request.URL.Path, "/")
		id, _ := strconv.Atoi(words[2])
		orders, err := handle(request.Context(), pools[words[1]], words[1], id)
		told := map[string]interface{}{"rows": orders}
		if err != nil {
			told = map[string]interface{}{"error": err.Error()}
		}
		json.NewEncoder(answer).Encode(told)
	})
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("APP_PORT"), nil))
}
