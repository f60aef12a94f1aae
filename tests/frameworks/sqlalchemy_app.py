"""SQLAlchemy with psycopg: a session for each request, its transaction begun by choosing the tenant."""

from sqlalchemy import Integer, String, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from served import DB_PORT, GATEWAY, LOGINS, POOL, login, serve

engines = {name: create_engine(f"postgresql+psycopg://{name}:{name}-secret@127.0.0.1:{DB_PORT}/app", pool_size=POOL // len(LOGINS),
                               max_overflow=0, pool_timeout=30) for name in LOGINS}


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    tenant_id: Mapped[str] = mapped_column(String, primary_key=True)
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    note: Mapped[str] = mapped_column(String)


def handle(tenant, number):
    with Session(engines[login(tenant)]) as session, session.begin():
        if GATEWAY:
            session.execute(text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": tenant})
        rows = [{"tenant_id": order.tenant_id, "id": order.id, "note": order.note}
                for order in session.scalars(select(Order).where(Order.id <= 10).order_by(Order.id))]
        session.execute(text("INSERT INTO items (id, n) VALUES (:id, :n)"), {"id": number, "n": len(rows)})
    return rows


serve(handle)
