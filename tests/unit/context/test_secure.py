from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmteam import codec
from llmteam.audit import AuditEventType, AuditTrail, MemoryAuditStore
from llmteam.context import (
    ContextAccessError,
    ContextAccessPolicy,
    EncryptionRequiredError,
    InvalidContextError,
    SealedData,
    SealedDataAccessError,
    SecureAgentContext,
    SensitivityLevel,
    UnknownSealedFieldError,
    create_secure_context,
    dump_context,
    load_context,
)
from llmteam.context.auditing import _current
from llmteam.crypto import MasterKeys, SealBrokenError
from llmteam.errors import NotJSONError
from llmteam.keys import MemoryKeyStore, TenantKeys, TenantVault
from llmteam.masking import MASK, SecretValue
from llmteam.tenancy import TenantContext

CARD = "4111-1111-1111-1111"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=4), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def vault(tenant_id: str = "acme") -> TenantVault:
    return TenantKeys(MemoryKeyStore(), MasterKeys([("m", b"k" * 32)])).vault(tenant_id)


def sealed_context(**policy: Any) -> SecureAgentContext:
    context = SecureAgentContext("payments", "Payments", access_policy=ContextAccessPolicy(**policy))
    context.set_sealed("card", CARD)
    return context


def audited(**policy: Any) -> tuple[SecureAgentContext, MemoryAuditStore]:
    store = MemoryAuditStore()
    context = sealed_context(**policy)
    context._audit_trail = AuditTrail(store, tenant_id="acme")
    return context, store


def told(store: MemoryAuditStore) -> list[tuple[str, str, str, str, bool]]:
    return [
        (record.event_type.name, record.actor_id, record.actor_type, record.resource_id, record.success)
        for record in store.get_all()
    ]


# -- what is sealed


@given(JSON)
def test_the_owner_reads_what_it_sealed(value: Any) -> None:
    context = SecureAgentContext("payments", "Payments")

    context.set_sealed("card", value)

    assert context.get_sealed("card", "payments") == value


def test_nobody_else_reads_changes_or_deletes_it() -> None:
    context = sealed_context()

    for requester in ("orchestrator", "other_agent", "", "Payments", "system", None):
        with pytest.raises(SealedDataAccessError) as caught:
            context.get_sealed("card", requester)
        with pytest.raises(PermissionError):
            context.delete_sealed("card", requester)
        assert CARD not in str(caught.value)
        assert (caught.value.owner_id, caught.value.field_name) == ("payments", "card")
    assert context.has_sealed("card")


def test_an_unknown_name_is_a_key_error_to_read_and_nothing_to_delete() -> None:
    context = sealed_context()

    with pytest.raises(KeyError, match="set_sealed first"):
        context.get_sealed("cvv", "payments")
    context.delete_sealed("cvv", "anybody")
    assert issubclass(UnknownSealedFieldError, KeyError)


def test_deleting_unseals_the_name() -> None:
    context = sealed_context()

    context.delete_sealed("card", "payments")
    context.set_data("card", "none")

    assert not context.has_sealed("card")
    assert context.list_sealed_keys() == []
    assert "card" not in context.access_policy.sealed_fields


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda context: repr(vars(context)),
        lambda context: repr(dataclasses.asdict(context)),
        lambda context: repr(context._sealed) + str(context._sealed["card"]),
        lambda context: repr(context._sealed["card"].to_document()),
        lambda context: json.dumps(context.to_dict()),
        lambda context: json.dumps(context.get_visible_context("orch", "pipeline_orch")),
        lambda context: json.dumps(context.get_visible_context("payments", "agent")),
        lambda context: repr(copy.copy(context)) + repr(vars(copy.deepcopy(context))),
        lambda context: repr([getattr(context._sealed["card"], name) for name in SealedData.__slots__]),
        lambda context: repr(context.get_sealed("card", "payments")),
        lambda context: repr(context.to_dict(include_sealed=True)),
        lambda context: json.dumps(dump_context(context, durable=False)),
    ],
)
def test_no_form_of_a_context_shows_a_sealed_value(show: Any) -> None:
    assert CARD not in show(sealed_context(sealed_fields={"cvv"}))


def test_a_pickle_carries_the_encrypted_value_only() -> None:
    context = sealed_context()
    context.messages.append({"text": f"my card is {CARD}"})

    raw = pickle.dumps(context)

    assert CARD.encode() not in raw
    again = pickle.loads(raw)
    assert again.get_sealed("card", "payments") == CARD
    assert again.messages == [{"text": f"my card is {MASK}"}]


def test_a_pickle_of_what_a_tenants_key_sealed_needs_that_key_again() -> None:
    own = vault()
    context = sealed_context()
    context.use_vault(own)

    again = pickle.loads(pickle.dumps(context))

    with pytest.raises(SealBrokenError):
        again.get_sealed("card", "payments")
    with pytest.raises(SealBrokenError):
        again.use_vault(own)


def test_a_sealed_text_masks_itself_and_is_refused_where_values_are_stored() -> None:
    context = SecureAgentContext("payments", "Payments")
    context.set_sealed("card", {"number": CARD, "exp": [12, "2030-long"]})

    card = context.get_sealed("card", "payments")

    assert card == {"number": CARD, "exp": [12, "2030-long"]}
    assert CARD not in repr(card)
    with pytest.raises(NotJSONError, match="never stored or sent") as caught:
        codec.dumps(card)
    assert CARD not in str(caught.value)
    context.set_sealed("again", card)
    assert context.get_sealed("again", "payments") == card


def test_what_is_no_json_cannot_be_sealed_and_the_error_does_not_show_it() -> None:
    class Card:
        def __repr__(self) -> str:
            return CARD

    with pytest.raises(NotJSONError) as caught:
        SecureAgentContext("payments", "Payments").set_sealed("card", {"n": Card()})

    assert CARD not in str(caught.value)


def test_plain_data_is_refused_under_a_sealed_name_and_dropped_when_it_becomes_one() -> None:
    context = sealed_context(sealed_fields={"cvv"})
    for name in ("card", "cvv"):
        with pytest.raises(InvalidContextError, match="set_sealed"):
            context.set_data(name, "1")
    context.set_data("pin", "0000")

    context.set_sealed("pin", "0000")

    assert context.get_data("pin") is None
    assert context.get_data("pin", "none") == "none"


def test_unsealing_a_name_exposes_no_sealed_value() -> None:
    context = sealed_context()

    context.access_policy.unseal_field("card")

    view = context.get_visible_context("orch", "pipeline_orch")
    assert view["sealed_fields"] == ["card"]
    assert CARD not in json.dumps(view) + json.dumps(context.to_dict())


def test_whoever_changes_the_owners_name_gets_nothing() -> None:
    context = sealed_context()

    context.agent_id = "thief"

    with pytest.raises(SealedDataAccessError):
        context.get_sealed("card", "thief")


@pytest.mark.parametrize(
    ("policy", "encrypt"),
    [
        ({"sensitivity": SensitivityLevel.TOP_SECRET}, False),
        ({"encrypt_sealed": True}, False),
        ({}, True),
    ],
)
def test_what_must_be_encrypted_is_refused_without_a_tenants_key(policy: dict[str, Any], encrypt: bool) -> None:
    context = SecureAgentContext("payments", "Payments", access_policy=ContextAccessPolicy(**policy))

    with pytest.raises(EncryptionRequiredError, match="'card'"):
        context.set_sealed("card", CARD, encrypt=encrypt)

    context.use_vault(vault())
    context.set_sealed("card", CARD, encrypt=encrypt)
    assert context.get_sealed("card", "payments") == CARD


def test_sealed_values_are_for_the_owner_also_in_a_dictionary() -> None:
    context = sealed_context()

    assert context.to_dict(include_sealed=True)["_sealed"] == {"card": CARD}
    assert "_sealed" not in context.to_dict()
    with pytest.raises(SealedDataAccessError):
        context.to_dict(include_sealed=True, requester_id="other")
    for other in (copy.deepcopy(context), pickle.loads(pickle.dumps(context))):
        with pytest.raises(SealedDataAccessError):
            other.to_dict(include_sealed=True)
        assert other.to_dict(include_sealed=True, requester_id="payments")["_sealed"] == {"card": CARD}


def test_a_sealed_value_alone_keeps_the_same_promises() -> None:
    data = SealedData(CARD, owner_id="payments")

    assert data.get("payments") == CARD
    assert data.is_owner("payments")
    assert not data.is_owner("other")
    assert data.encryption_key_id
    assert "payments" in repr(data)
    assert "REDACTED" in repr(data)
    assert "SEALED" in str(data)
    assert CARD.encode() not in pickle.dumps(data)
    with pytest.raises(PermissionError):
        data.get("other")


# -- what others see


def test_an_orchestrator_sees_how_it_stands_with_an_agent() -> None:
    context = sealed_context()
    context.update_status("running")
    context.update_confidence(0.7)
    context.increment_error_count()
    context.add_reasoning_step("think")
    context.add_source("book")
    context.add_message({"role": "user"})
    context.set_data("note", {"n": 1})

    view = context.get_visible_context("orch", "pipeline_orch")

    assert view == {
        "agent_id": "payments",
        "agent_name": "Payments",
        "status": "running",
        "confidence": 0.7,
        "error_count": 1,
        "last_action": "",
        "reasoning_steps": ["think"],
        "sources": ["book"],
        "data": {"note": {"n": 1}},
        "updated_at": context.updated_at.isoformat(),
        "sealed_fields": ["card"],
    }


def test_of_a_confidential_agent_no_reasoning_is_seen() -> None:
    view = sealed_context(sensitivity=SensitivityLevel.CONFIDENTIAL).get_visible_context("orch", "pipeline_orch")

    assert "confidence" in view
    assert not {"reasoning_steps", "sources", "data", "messages"} & set(view)


def test_who_is_denied_sees_only_that() -> None:
    view = sealed_context().get_visible_context("other", "agent")

    assert set(view) == {"agent_id", "agent_name", "access", "reason"}
    assert view["access"] == "denied"
    assert "forbidden" in view["reason"]


def test_the_owner_sees_everything_but_sealed_values_whatever_the_sensitivity() -> None:
    context = sealed_context(sensitivity=SensitivityLevel.SECRET)
    context.add_message({"role": "user"})

    view = context.get_visible_context("payments", "agent")

    assert view["messages"] == [{"role": "user"}]
    assert view["sealed_fields"] == ["card"]
    assert context.get_visible_context("payments", "pipeline_orch")["access"] == "denied"


def test_sealed_names_are_left_out_at_any_depth_and_sealed_texts_masked_anywhere() -> None:
    context = sealed_context(sealed_fields={"cvv"})
    context.set_data("payment", {"cvv": "123", "list": [{"card": "x", "fine": 1}], "said": f"card {CARD}!"})
    context.add_reasoning_step(f"I was given {CARD}")

    view = context.get_visible_context("orch", "pipeline_orch")

    assert view["data"] == {"payment": {"list": [{"fine": 1}], "said": f"card {MASK}!"}}
    assert view["reasoning_steps"] == [f"I was given {MASK}"]


def test_a_view_is_a_copy() -> None:
    context = sealed_context()
    context.set_data("note", {"n": [1]})

    context.get_visible_context("orch", "pipeline_orch")["data"]["note"]["n"].append(2)
    context.to_dict()["data"]["note"]["n"].append(3)

    assert context.data == {"note": {"n": [1]}}


def test_another_tenant_sees_nothing_and_reads_nothing() -> None:
    with TenantContext("acme"):
        context = sealed_context()
        assert context.tenant_id == "acme"

    with TenantContext("globex"):
        assert context.get_visible_context("orch", "pipeline_orch")["access"] == "denied"
        assert context.get_visible_context("payments", "agent")["access"] == "denied"
        assert not context.check_access("orch", "pipeline_orch").allowed
        with pytest.raises(SealedDataAccessError):
            context.get_sealed("card", "payments")
    with TenantContext("acme"):
        assert context.get_sealed("card", "payments") == CARD


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", None, True])
def test_confidence_is_a_number_and_cut_to_its_range(bad: Any) -> None:
    context = SecureAgentContext("a", "A", confidence=7)
    assert context.confidence == 1.0
    context.update_confidence(-2)
    assert context.confidence == 0.0

    with pytest.raises(InvalidContextError, match="finite number"):
        context.update_confidence(bad)
    with pytest.raises(InvalidContextError):
        SecureAgentContext("a", "A", confidence=bad)


# -- audit


def test_accesses_are_audited_with_who_what_and_whether() -> None:
    context, store = audited(audit_access=True)

    context.get_visible_context("orch", "pipeline_orch")
    context.get_visible_context("other", "agent")
    context.get_sealed("card", "payments")
    with pytest.raises(SealedDataAccessError):
        context.get_sealed("card", "other")
    context.check_access("orch", "pipeline_orch", ["card"])

    assert told(store) == [
        ("CONTEXT_ACCESSED", "orch", "pipeline_orch", "payments", True),
        ("ACCESS_DENIED", "other", "agent", "payments", False),
        ("SEALED_DATA_ACCESSED", "payments", "agent", "payments:card", True),
        ("ACCESS_DENIED", "other", "agent", "payments:card", False),
        ("ACCESS_DENIED", "orch", "pipeline_orch", "payments:card", False),
    ]
    assert CARD not in repr(store.get_all())
    assert {record.resource_type for record in store.get_all()} == {"agent_context", "sealed_data"}


def test_views_are_audited_on_request_sealed_reads_and_refusals_always() -> None:
    context, store = audited()

    context.get_visible_context("orch", "pipeline_orch")
    context.get_visible_context("other", "agent")
    context.get_sealed("card", "payments")

    assert [event for event, *_ in told(store)] == ["ACCESS_DENIED", "SEALED_DATA_ACCESSED"]


def test_without_a_record_there_is_no_value() -> None:
    class Broken:
        def log_sync(self, event_type: AuditEventType, **fields: Any) -> object:
            raise OSError("the trail cannot be written")

    context = sealed_context()
    context._audit_trail = Broken()

    with pytest.raises(OSError, match="cannot be written"):
        context.get_sealed("card", "payments")
    with pytest.raises(OSError, match="cannot be written"):
        context.get_visible_context("other", "agent")


def test_a_missing_trail_is_told_once_or_refused_as_the_policy_says(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_current, "warned", False)
    context = sealed_context(audit_access=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            context.get_visible_context("orch", "pipeline_orch")
    assert caplog.text.count("there is no audit trail") == 1

    strict = sealed_context(require_audit=True)
    with pytest.raises(ContextAccessError, match="has to be audited"):
        strict.get_visible_context("orch", "pipeline_orch")
    with pytest.raises(ContextAccessError, match="has to be audited"):
        strict.get_sealed("card", "payments")
    with pytest.raises(ContextAccessError, match="has to be audited"):
        strict.deny_access_to("orch")


def test_a_copy_is_audited_as_the_original_is() -> None:
    context, store = audited()

    copy.deepcopy(context).get_sealed("card", "payments")

    assert [event for event, *_ in told(store)] == ["SEALED_DATA_ACCESSED"]


def test_the_policy_is_changed_by_the_owner_and_audited() -> None:
    context, store = audited()

    context.deny_access_to("orch")
    context.allow_access_to("orch", requester_id="payments")
    context.set_sensitivity(SensitivityLevel.SECRET)
    with pytest.raises(ContextAccessError):
        context.set_sensitivity(SensitivityLevel.PUBLIC, requester_id="orch")

    assert context.access_policy.sensitivity is SensitivityLevel.SECRET
    assert [event for event, *_ in told(store)] == [*["POLICY_CHANGED"] * 3, "ACCESS_DENIED"]
    assert store.get_all()[2].new_value == {"sensitivity": "secret"}


# -- documents


def filled() -> tuple[SecureAgentContext, TenantVault]:
    own = vault()
    context = SecureAgentContext(
        "payments",
        "Payments",
        tenant_id="acme",
        run_id="run-1",
        access_policy=ContextAccessPolicy(denied_viewers={"evil"}, allowed_viewers={"good"}, encrypt_sealed=True),
        _vault=own,
    )
    context.set_sealed("card", CARD)
    context.set_data("note", [1, {"a": None}])
    context.add_reasoning_step("think")
    context.add_message({"role": "user"})
    return context, own


def test_a_document_loses_nothing_and_shows_nothing() -> None:
    context, own = filled()

    document = json.loads(codec.dumps(dump_context(context)))
    again = load_context(document, vault=own)

    assert CARD not in json.dumps(document)
    assert dump_context(again) == document
    assert again.access_policy == context.access_policy
    assert again.get_sealed("card", "payments") == CARD
    assert again.created_at == context.created_at


@pytest.mark.parametrize("field", ["agent_id", "tenant_id", "run_id"])
def test_a_document_that_was_moved_to_somebody_else_does_not_open(field: str) -> None:
    context, own = filled()
    document = {**dump_context(context), field: "somebody"}
    document["sealed"]["card"]["owner_id"] = document["agent_id"]

    moved = load_context(document, vault=own)

    with pytest.raises(SealBrokenError):
        moved.get_sealed("card", moved.agent_id)


def test_sealed_values_that_were_exchanged_do_not_open() -> None:
    context, own = filled()
    context.set_sealed("cvv", "123-456")
    document = dump_context(context)
    document["sealed"] = {"card": document["sealed"]["cvv"], "cvv": document["sealed"]["card"]}

    with pytest.raises(SealBrokenError):
        load_context(document, vault=own).get_sealed("card", "payments")


def test_the_key_of_another_tenant_opens_no_document() -> None:
    context, _ = filled()

    with pytest.raises(Exception, match="no data key"):
        load_context(dump_context(context), vault=vault("globex")).get_sealed("card", "payments")


def test_a_document_is_refused_where_its_key_would_end_with_the_process() -> None:
    with pytest.raises(EncryptionRequiredError):
        dump_context(sealed_context())
    assert dump_context(SecureAgentContext("a", "A"))["sealed"] == {}


@pytest.mark.parametrize(
    "document", [{}, {"format": 99}, {"format": 1}, {**dump_context(SecureAgentContext("a", "A")), "sealed": None}]
)
def test_other_documents_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(InvalidContextError):
        load_context(document)


def test_whom_the_runtime_opened_it_for_is_the_owner_whatever_they_say() -> None:
    context, own = filled()

    mine = load_context(dump_context(context), vault=own, principal="payments")
    theirs = load_context(dump_context(context), vault=own, principal="other")

    assert mine.get_sealed("card") == CARD
    assert mine.get_sealed("card", "payments") == CARD
    for requester in (None, "payments", "other"):
        with pytest.raises(SealedDataAccessError):
            theirs.get_sealed("card", requester)
    assert theirs.get_visible_context("payments", "agent")["access"] == "denied"
    with pytest.raises(SealedDataAccessError):
        mine.get_sealed("card", "other")


def test_the_short_way_makes_the_same_context() -> None:
    store = MemoryAuditStore()
    context = create_secure_context(
        "a", "A", SensitivityLevel.PUBLIC, {"card"}, audit_access=True, audit_trail=AuditTrail(store)
    )

    context.get_visible_context("group", "group_orch")

    assert context.access_policy.sealed_fields == {"card"}
    assert len(store) == 1


def test_a_secret_can_be_sealed_and_comes_back_as_one() -> None:
    context = SecureAgentContext("a", "A")

    context.set_sealed("token", SecretValue("s3cret-value"))

    assert context.get_sealed("token", "a") == "s3cret-value"
