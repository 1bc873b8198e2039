-- A database of schema version 1, as it was first written. Not to be changed.
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE chats (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    title TEXT NOT NULL,
    model TEXT,
    system_prompt TEXT,
    pinned INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    active_leaf BLOB REFERENCES messages(id) ON DELETE SET NULL
        DEFERRABLE INITIALLY DEFERRED,
    deleted_at INTEGER
) STRICT;
CREATE INDEX chats_order ON chats (pinned, updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX chats_deleted ON chats (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX chats_leaf ON chats (active_leaf);
CREATE TABLE deletions (
    token BLOB PRIMARY KEY NOT NULL,
    chat_id BLOB NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
    deleted_at INTEGER NOT NULL,
    active_leaf BLOB
) STRICT;
CREATE INDEX deletions_chat ON deletions (chat_id);
CREATE TABLE messages (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    chat_id BLOB NOT NULL REFERENCES chats(id) ON DELETE CASCADE,
    parent_id BLOB REFERENCES messages(id) DEFERRABLE INITIALLY DEFERRED,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    text TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('complete', 'streaming', 'interrupted', 'stopped', 'error')),
    model TEXT,
    error TEXT,
    stats TEXT,
    deletion BLOB REFERENCES deletions(token) DEFERRABLE INITIALLY DEFERRED
) STRICT;
CREATE INDEX messages_chat ON messages (chat_id, deletion);
CREATE INDEX messages_parent ON messages (parent_id);
CREATE INDEX messages_deletion ON messages (deletion) WHERE deletion IS NOT NULL;
CREATE INDEX messages_streaming ON messages (state) WHERE state = 'streaming';
CREATE TABLE drafts (
    chat_id BLOB UNIQUE REFERENCES chats(id) ON DELETE CASCADE,
    text TEXT NOT NULL
) STRICT;

INSERT INTO chats (id, title, model, pinned, created_at, updated_at, active_leaf)
VALUES (x'0194000000007000800000000000000a', 'Old chat', 'mixtral', 1, 1000, 2000,
        x'01940000000070008000000000000003');
INSERT INTO chats (id, title, pinned, created_at, updated_at, deleted_at)
VALUES (x'0194000000007000800000000000000b', 'Deleted chat', 0, 1000, 2000, 9000000000000);
INSERT INTO deletions (token, chat_id, deleted_at)
VALUES (x'0194000000007000800000000000000d', x'0194000000007000800000000000000a', 9000000000000);
INSERT INTO messages (id, chat_id, parent_id, role, text, created_at, state, stats, deletion) VALUES
    (x'01940000000070008000000000000001', x'0194000000007000800000000000000a', NULL,
     'user', 'An old question', 1000, 'complete', NULL, NULL),
    (x'01940000000070008000000000000002', x'0194000000007000800000000000000a',
     x'01940000000070008000000000000001', 'assistant', 'An old answer', 1500, 'complete',
     '{"newTokens":3,"tokensPerSec":1.5,"timeToFirstTokenMs":2,"hitRate":null,"stopReason":"eos","promptTokens":4,"reusedTokens":0,"seed":"9"}',
     NULL),
    (x'01940000000070008000000000000003', x'0194000000007000800000000000000a',
     x'01940000000070008000000000000001', 'assistant', 'An answer cut off', 2000, 'streaming',
     NULL, NULL),
    (x'01940000000070008000000000000004', x'0194000000007000800000000000000a',
     x'01940000000070008000000000000001', 'assistant', 'An answer removed', 2000, 'complete',
     NULL, x'0194000000007000800000000000000d');
INSERT INTO drafts (chat_id, text) VALUES (NULL, 'An old draft');
PRAGMA application_id = 0x4f637474;
PRAGMA user_version = 1;
COMMIT;
