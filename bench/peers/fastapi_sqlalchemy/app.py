"""An upsert as it is usually written in Python: FastAPI, pydantic, SQLAlchemy's ORM on asyncpg."""

import os
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from sqlalchemy import BigInteger, Boolean, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.dml import ReturningInsert

OBJECT_KEY = "car"
USER, TOKEN = os.environ["PEER_USER"], os.environ["PEER_TOKEN"]

# The address comes from PGHOST and its kin.
engine = create_async_engine("postgresql+asyncpg://", pool_size=20, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Object(Base):
    __tablename__ = "objects"

    account_id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    version: Mapped[int]
    naming: Mapped[str]
    created_by_user_id: Mapped[int]


class Record(Base):
    __tablename__ = "fastapi_records"

    account_id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(primary_key=True)
    record_id: Mapped[str] = mapped_column(primary_key=True)
    created_by_user_id: Mapped[int]
    updated_by_user_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    definition_version: Mapped[int]
    naming: Mapped[str]
    name: Mapped[str]
    external_id: Mapped[str | None]
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)


_insert = insert(Record)
# Made once: to make it anew for each request would cost more than all the rest.
UPSERT: ReturningInsert[Record, bool] = _insert.on_conflict_do_update(
    index_elements=[Record.account_id, Record.object_id, Record.external_id],
    index_where=Record.external_id.is_not(None),
    set_={
        "name": _insert.excluded.name,
        "fields": Record.fields.op("||")(_insert.excluded.fields),
        "version": Record.version + 1,
        "updated_at": func.now(),
        "updated_by_user_id": _insert.excluded.updated_by_user_id,
    },
).returning(Record, literal_column("xmax = 0", Boolean))  # only a row that was inserted just now has no xmax


Time = Annotated[
    datetime, PlainSerializer(lambda moment: moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
]


class CarFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    maker: str | None = None
    plate: Annotated[str, Field(pattern=r"^[A-Z]{1,3}-[A-Z]{1,2} [0-9]{1,4}$")] | None = None
    notes: str | None = None
    mileage: Annotated[int, Field(gt=-(10**12), lt=10**12)] | None = None
    price: Annotated[float, Field(gt=-1e15, lt=1e15)] | None = None
    electric: bool | None = None
    registered_on: Annotated[date, Field(strict=False)] | None = None
    color: Literal["red", "green", "blue", "black", "white"] | None = None


class CarPatch(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=255)]
    custom_object_fields: CarFields


class CarPatchBody(BaseModel):
    custom_object_record: CarPatch


class Car(BaseModel):
    url: str
    id: str
    name: str
    external_id: str | None
    custom_object_key: str
    custom_object_fields: CarFields
    photo: None
    created_at: Time
    updated_at: Time
    created_by_user_id: str
    updated_by_user_id: str


class CarBody(BaseModel):
    custom_object_record: Car


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with sessions() as session:
        owner = (await session.scalars(select(Object).where(Object.key == OBJECT_KEY))).one()
    app.state.owned = {
        "account_id": owner.account_id,
        "object_id": owner.object_id,
        "definition_version": owner.version,
        "naming": owner.naming,
        "created_by_user_id": owner.created_by_user_id,
        "updated_by_user_id": owner.created_by_user_id,
    }
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def authenticated(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    is_user = secrets.compare_digest(credentials.username.encode(), USER.encode())
    if not (secrets.compare_digest(credentials.password.encode(), TOKEN.encode()) and is_user):
        raise HTTPException(401, "Couldn't authenticate you")


async def in_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.patch(f"/api/v2/custom_objects/{OBJECT_KEY}/records", dependencies=[Depends(authenticated)])
async def upsert(
    request: Request,
    response: Response,
    external_id: Annotated[str, Query(min_length=1, max_length=255)],
    body: CarPatchBody,
    session: Annotated[AsyncSession, Depends(in_session)],
) -> CarBody:
    patch = body.custom_object_record
    values = {
        **request.app.state.owned,
        "record_id": uuid.uuid4().hex,
        "name": patch.name,
        "external_id": external_id,
        "fields": patch.custom_object_fields.model_dump(mode="json", exclude_unset=True),
    }
    record, is_new = (await session.execute(UPSERT, values)).one()
    await session.commit()
    response.headers["Upsert-Result"] = "created" if is_new else "updated"
    return CarBody(custom_object_record=_answered(request, record))


def _answered(request: Request, record: Record) -> Car:
    return Car(
        url=f"{request.base_url}api/v2/custom_objects/{OBJECT_KEY}/records/{record.record_id}.json",
        id=record.record_id,
        name=record.name,
        external_id=record.external_id,
        custom_object_key=OBJECT_KEY,
        custom_object_fields=CarFields.model_validate(record.fields),
        photo=None,
        created_at=record.created_at,
        updated_at=record.updated_at,
        created_by_user_id=str(record.created_by_user_id),
        updated_by_user_id=str(record.updated_by_user_id),
    )
