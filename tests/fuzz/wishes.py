"""Files of `apply`, and what becomes of them: data, checked by the schema, a state that is wished
for beside one that is there, and a file of that again."""
from __future__ import annotations

from collections.abc import Sequence

from lio_handover.manage import as_file, schema, tree_file, wishes
from lio_handover.model.diff import diff
from tests.unit.test_manage import HERE, IQN, ME, built

from .runner import SECRET

_FILE = f"""\
backstores:
  fileio/disk0: {{file_or_dev: /srv/there.img, size: 1M, attributes: {{emulate_tpu: true}},
                  inquiry: {{vendor_id: ME}}, alua: {{g1: {{tag: 16, preferred: 1}}}}}}
  block/sdb: {{dev: /dev/sda, readonly: true, wwn: 1234abcd}}
lu_groups: {{lug: {{id: 7}}}}
targets:
  iscsi/{IQN}:
    tpg1:
      attributes: {{authentication: true}}
      parameters: {{InitialR2T: No}}
      auth: {{userid: me, password: {{file: /run/secret}}}}
      portals: ["192.0.2.1:3260", "[2001:db8::1]:3261"]
      luns: {{0: fileio/disk0, 1: {{backstore: block/sdb}}}}
      acls:
        {ME}: {{auth: {{userid: me, password: {{file: /run/secret}}}}}}
        iqn.1994-05.org.example:you: {{mapped_luns: {{0: {{lun: 1, write_protect: true}}, 1: 0}}}}
  vhost/naa.5001405000000002: {{tpg1: {{nexus: naa.5001405000000003}}}}
discovery_auth: {{userid: d, password: {{file: /run/secret}}, enable: true}}
"""


def files() -> Sequence[bytes]:
    HERE.number = 0  # the names that are made are those of any other run
    return [_FILE.encode(), as_file.text(as_file.tree(built())).encode(),
            _FILE.partition("      acls:")[0].encode(),
            b'{"targets": {"iscsi/iqn.2026-11.org.example:x": {"tpg1": {"portals": []}}}}']


def read_file(data: bytes) -> None:
    """A file that is taken wishes for a state that a file can say again."""
    tree = tree_file.load(data)
    schema.check(tree)
    for prune in (False, True):
        state = wishes.wish(built(), tree or {}, HERE, prune, lambda path: SECRET).state
        text = as_file.text(as_file.tree(state))
        assert SECRET not in text
        # The kernel fills in what a new object has besides; here a second wish does.
        there = wishes.wish(state, tree or {}, HERE, prune, lambda path: SECRET).state
        again = wishes.wish(there, tree or {}, HERE, prune, lambda path: SECRET).state
        assert not [change for change in diff(there, again, partial=True)
                    if getattr(change, "name", "") != "wwn/vpd_unit_serial"]
