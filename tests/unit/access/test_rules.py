"""What rules decide."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipcd_client.access import tables
from ipcd_client.access.rules import COMMAND, VERBS, Rule, Rules, named
from ipcd_client.errors import ConfigError

US = 1000


def rules(*tables_: dict[str, object], node: str = "a", uid: int = US) -> Rules:
    return Rules(tables.checked(tables_, "rules in f"), "c", node, uid)


def allow(who: object, may: object = "*", what: object = "*", **more: object) -> dict[str, object]:
    return {"effect": "allow", "who": who, "may": may, "what": what, **more}


def deny(who: object, may: object = "*", what: object = "*", **more: object) -> dict[str, object]:
    return allow(who, may, what, **more) | {"effect": "deny"}


def user(uid: int, node: str = "a") -> str:
    return f"spiffe://c/node/{node}/uid/{uid}"


def test_without_rules_the_own_user_and_root_may_everything() -> None:
    judge = rules()
    for verb in VERBS:
        for node in "ab":
            for uid in (0, US):
                decision = judge.decide(user(uid, node), verb, "x.X")
                assert (decision.allowed, decision.rule_name) == (True, "same-uid")
            assert not judge.decide(user(1001, node), verb, "x.X").allowed
            assert not judge.decide(f"spiffe://c/node/{node}", verb, "x.X").allowed
    for verb in VERBS:
        assert judge.decide("spiffe://c/node/a/grpc", verb, "x.X").rule_name == "grpc-listen"
    assert not judge.decide("spiffe://c/node/b/grpc", "call", "x.X").allowed


def test_a_name_of_a_node_is_no_pattern() -> None:
    judge = rules(node="*")
    assert judge.decide("spiffe://c/node/*/grpc", "call", "x.X").allowed
    assert not judge.decide("spiffe://c/node/b/grpc", "call", "x.X").allowed


def test_deny_wins_wherever_it_stands() -> None:
    for tables_ in (
        [allow("**"), deny("node/*/uid/7", what="secret.*", name="no secrets")],
        [deny("node/*/uid/7", what="secret.*", name="no secrets"), allow("**")],
    ):
        judge = rules(*tables_)
        assert judge.decide(user(7), "call", "open.X").allowed
        decision = judge.decide(user(7), "call", "secret.X")
        assert (decision.allowed, decision.rule_name) == (False, "no secrets")


def test_the_built_in_ones_can_be_denied() -> None:
    judge = rules(deny("node/a/uid/0", "call"), deny("node/*/grpc"))
    assert judge.decide(user(0), "call", "x.X").rule_name == "rule 1"
    assert judge.decide(user(0), "register", "x.X").allowed
    assert judge.decide(user(0, "b"), "call", "x.X").allowed
    assert judge.decide("spiffe://c/node/a/grpc", "call", "x.X").rule_name == "rule 2"


def test_words() -> None:
    judge = rules(allow("node/b/uid/7", "call", "lab.*"), deny("node/b/uid/8", name="strangers"), deny("node/c/**"))
    said = str(judge.decide(user(7, "b"), "call", "lab.Lab"))
    assert said == "spiffe://c/node/b/uid/7 may call lab.Lab on node a: rule 1 allows it"
    said = str(judge.decide(user(7, "b"), "register", "lab.Lab"))
    assert said == (
        "spiffe://c/node/b/uid/7 may not register lab.Lab on node a: no rule allows it (the rule same-uid allows uid 0 "
        'and uid 1000); this one of node a would: effect = "allow", who = "node/b/uid/7", may = "register", '
        'what = "lab.Lab"'
    )
    said = str(judge.decide(user(8, "b"), "call", "lab.Lab"))
    assert said == (
        "spiffe://c/node/b/uid/8 may not call lab.Lab on node a: the rule strangers denies it, and a deny wins over "
        "every allow; only a change of the rules of node a would let it"
    )
    assert ": rule 3 denies it" in str(judge.decide("spiffe://c/node/c", "call", ""))


def test_a_command_has_a_name_of_its_own_and_that_of_its_service() -> None:
    judge = rules(
        allow("node/a/uid/7", "call", "command:w*"),
        allow("node/a/uid/8", "call", COMMAND),
        deny("node/a/uid/8", "call", "command:who"),
        deny("node/a/uid/9", "register", COMMAND),
        allow("node/a/uid/9"),
    )

    def may(uid: int, verb: str, server: str) -> bool:
        return judge.decide(user(uid), verb, named(COMMAND, server)).allowed

    assert (may(7, "call", "wc"), may(7, "call", "rm"), may(7, "call", "")) == (True, False, False)
    assert (may(8, "call", "wc"), may(8, "call", "who"), may(8, "call", "")) == (True, False, True)
    assert (may(9, "register", "wc"), may(9, "call", "wc"), may(9, "register", "")) == (False, True, False)
    assert named(COMMAND, "wc") == "command:wc"
    assert named("x.X", "wc") == "x.X"


def test_what_would_help_does() -> None:
    judge = rules()
    refused = judge.decide(user(7, "b"), "call", "lab.Lab")
    helping = dict(part.split(" = ") for part in str(refused).partition(" would: ")[2].split(", "))
    table: dict[str, object] = {key: value.strip('"') for key, value in helping.items()}
    assert rules(table).decide(user(7, "b"), "call", "lab.Lab").allowed


@pytest.mark.parametrize(
    ("tables_", "uid", "admitted"),
    [
        ([], US, True),
        ([], 0, True),
        ([], 7, False),
        ([allow("node/a/uid/7", "read", "x")], 7, True),
        ([allow("node/b/uid/7")], 7, False),
        ([allow("node/*/uid/7"), deny("**", "call")], 7, True),
        ([allow("node/*/uid/7", "call"), deny("**", "call")], 7, False),
        ([allow("node/*/uid/7", "call"), deny("**", "call", "secret.*")], 7, True),
        ([deny("node/*/uid/0")], 0, False),
        ([deny("node/*/uid/0", what="x.*")], 0, True),
    ],
)
def test_who_may_attach(tables_: list[dict[str, object]], uid: int, admitted: bool) -> None:
    assert rules(*tables_).admits(user(uid)) is admitted


@pytest.mark.parametrize(
    ("who", "others"),
    [
        ("node/a/uid/7", True),
        ("node/*/uid/*", True),
        ("node/a/uid/10*", True),
        ("node/a/**", True),
        ("**", True),
        ("spiffe://c/**", True),
        ("node/a/uid/1000", False),
        ("node/*/uid/0", False),
        ("node/b/uid/7", False),
        ("spiffe://d/**", False),
        ("node/*/grpc", False),
        ("node/a", False),
    ],
)
def test_whether_other_users_come_in_question(who: str, others: bool) -> None:
    assert rules(allow(who)).admits_others is others
    assert not rules(allow(who), deny("**")).admits_others
    assert rules(allow(["node/b/grpc", who]), uid=1).admits_others is (others or who == "node/a/uid/1000")


@given(
    st.lists(
        st.builds(
            Rule,
            st.just("r"),
            st.sampled_from(["allow", "deny"]),
            st.sampled_from([("**",), ("node/a/uid/*",), ("node/a/uid/7", "node/b/uid/7")]),
            st.lists(st.sampled_from(VERBS), min_size=1).map(tuple),
            st.sampled_from([("*",), ("x.*",), ("x.X", "y.Y")]),
        ),
        max_size=6,
    ),
    st.sampled_from([user(0), user(7), user(7, "b"), user(8), "spiffe://c/node/a/grpc"]),
    st.sampled_from(VERBS),
    st.sampled_from(["", "x.X", "x.Z", "y.Y", "z.Z"]),
)
def test_one_deny_is_enough_and_one_allow_is_needed(made: Sequence[Rule], identity: str, verb: str, name: str) -> None:
    judge = Rules(made, "c", "a", US)
    alone = [Rules([rule], "c", "a", US).decide(identity, verb, name) for rule in made]
    default = Rules([], "c", "a", US).decide(identity, verb, name).allowed
    denied = any(one.rule_name == "r" and not one.allowed for one in alone)
    allowed = default or any(one.rule_name == "r" and one.allowed for one in alone)
    decision = judge.decide(identity, verb, name)
    assert decision.allowed is (allowed and not denied)
    # The order of rules changes nothing.
    assert Rules(made[::-1], "c", "a", US).decide(identity, verb, name).allowed is decision.allowed
    # Whoever may anything may attach.
    assert judge.admits(identity) or not decision.allowed


def test_memory_of_identities_is_bounded() -> None:
    judge = rules(allow("node/a/uid/*"))
    for uid in range(3000):
        assert judge.decide(user(uid), "call", "x.X").allowed
    assert len(judge._known) <= 1024


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("x", r"^rules in f: it is not a list of tables"),
        (["x"], r"^rules in f: it is not a list of tables"),
        ([{}], r"^rules in f, rule 1: effect is missing$"),
        ([allow("**"), {"effect": "deny"}], r"^rules in f, rule 2: who is missing$"),
        (
            [allow("**", name="open") | {"whom": "x"}],
            r"^rules in f, rule 1 \(open\): there is no key 'whom'; there are",
        ),
        ([allow("**") | {"effect": "Allow"}], r"^rules in f, rule 1, effect: 'Allow' is none of allow, deny$"),
        ([allow("**") | {"effect": ["allow"]}], r"^rules in f, rule 1, effect: \['allow'\] is none of"),
        ([allow("uid:7")], r"^rules in f, rule 1, who: 'uid:7': an identity's path begins with node/"),
        ([allow(7)], r"^rules in f, rule 1, who: 7 is neither a text nor a list of texts$"),
        ([allow([])], r"^rules in f, rule 1, who: \[\] is neither"),
        ([allow("**", may="eat")], r"^rules in f, rule 1, may: 'eat' is none of register, call, publish, read"),
        ([allow("**", may=["*", "call"])], r"^rules in f, rule 1, may: '\*' is none of"),
        ([allow("**", what=["a", 1])], r"^rules in f, rule 1, what: \['a', 1\] is neither"),
        ([allow("**", what="a b")], r"^rules in f, rule 1, what: 'a b': it has a space"),
        ([allow("**", name="same-uid")], r"^rules in f, rule 1, name: a rule that is always there"),
        ([allow("**", name="rule 2")], r"^rules in f, rule 1, name: rules without a name"),
        ([allow("**", name=" ")], r"^rules in f, rule 1, name: ' ' is not a text of 1 to 80"),
        ([allow("**", name="x"), allow("**", name="x")], r"^rules in f, rule 2, name: rule 1 is called 'x' already"),
    ],
)
def test_errors_name_file_rule_and_key(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tables.checked(value, "rules in f")


def test_texts_and_lists() -> None:
    (rule,) = tables.checked([allow("**", "call", ["a.*", "b.B"], name="two")], "f")
    assert rule == Rule("two", "allow", ("**",), ("call",), ("a.*", "b.B"))
    (rule,) = tables.checked([allow("**", ["read", "call", "read"])], "f")
    assert (rule.name, rule.may) == ("rule 1", ("call", "read"))
    assert tables.checked([allow("**", "*")], "f")[0].may == VERBS
