#include "runtime/tunedb.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 2, BUSY_MS = 10000, LARGEST_TUNABLE = 64, MOST_TUNABLES = 16 };

struct tunedb {
    sqlite3 *sql;
    char *path;
    struct stat id; /* of the file when it was opened: what is moved aside must still be that one */
};

const char *const tune_use_names[] = {[USE_PROMPT] = "prompt", [USE_TOKEN] = "token"};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS choice("
    "  key TEXT NOT NULL, threads INTEGER NOT NULL, use TEXT NOT NULL, tokens TEXT NOT NULL, kernel TEXT NOT NULL,"
    "  target TEXT NOT NULL, tune TEXT NOT NULL, ms REAL NOT NULL, default_ms REAL NOT NULL, at INTEGER NOT NULL,"
    "  PRIMARY KEY(key, threads, use)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS log("
    "  key TEXT NOT NULL, threads INTEGER NOT NULL, use TEXT NOT NULL, tokens TEXT NOT NULL, kernel TEXT NOT NULL,"
    "  target TEXT NOT NULL, tune TEXT NOT NULL, ms REAL NOT NULL, outcome TEXT NOT NULL, at INTEGER NOT NULL);";

static bool warned;
#define warn(...) warn_once(&warned, __VA_ARGS__)

static bool damaged(int rc) {
    return (rc & 0xFF) == SQLITE_CORRUPT || (rc & 0xFF) == SQLITE_NOTADB;
}

/* The journal goes with its database: beside a new one it would be taken for that one's. */
static void move_aside(const struct tunedb *db, const char *why) {
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    struct stat now;
    if (stat(db->path, &now) || now.st_ino != db->id.st_ino || now.st_dev != db->id.st_dev) return;
    for (int i = 0; i < 3; i++) {
        struct buf from = {0}, to = {0};
        buf_printf(&from, "%s%s", db->path, suffixes[i]);
        buf_printf(&to, "%s.broken%s", db->path, suffixes[i]);
        rename(from.data, to.data);
        buf_free(&from);
        buf_free(&to);
    }
    warn("%s is damaged (%s): moved to %s.broken; kernels run untuned until `kgen tune` runs again", db->path, why,
         db->path);
}

void tunedb_close(struct tunedb *db) {
    if (!db) return;
    sqlite3_close(db->sql);
    mem_free(db->path);
    mem_free(db);
}

static int version_of(sqlite3 *sql, int *version) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(sql, "PRAGMA user_version", -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *version = sqlite3_column_int(s, 0);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(s);
    return rc;
}

static struct tunedb *open_file(const char *dir, int flags, int *rc) {
    struct tunedb *db = mem_new(sizeof *db);
    struct buf path = {0};
    buf_printf(&path, "%s/tune.db", dir);
    db->path = path.data;
    *rc = sqlite3_open_v2(db->path, &db->sql, flags | SQLITE_OPEN_NOMUTEX, NULL);
    if (*rc == SQLITE_OK && stat(db->path, &db->id)) db->id = (struct stat){0};
    sqlite3_busy_timeout(db->sql, BUSY_MS);
    return db;
}

struct tunedb *tunedb_open(const char *dir) {
    struct stat st;
    struct buf path = {0};
    if (!dir) return NULL;
    buf_printf(&path, "%s/tune.db", dir);
    bool there = lstat(path.data, &st) == 0 && st.st_size > 0;
    /* Its choices only steer, but whoever else owns it has no say in what runs here. */
    if (there && (!S_ISREG(st.st_mode) || st.st_uid != geteuid())) {
        warn("%s is not a file of yours: kernels run untuned", path.data);
        there = false;
    }
    buf_free(&path);
    if (!there) return NULL;
    int rc, version = 0;
    struct tunedb *db = open_file(dir, SQLITE_OPEN_READWRITE, &rc);
    if (rc == SQLITE_OK) rc = version_of(db->sql, &version);
    if (rc == SQLITE_OK && version == VERSION) return db;
    if (damaged(rc)) {
        move_aside(db, sqlite3_errmsg(db->sql));
    } else if (rc != SQLITE_OK) {
        warn("%s cannot be used (%s): kernels run untuned", db->path, sqlite3_errmsg(db->sql));
    } else if (version > VERSION) {
        warn("%s was written by a later kgen (version %d, expected %d): kernels run untuned", db->path, version,
             VERSION);
    }
    tunedb_close(db);
    return NULL;
}

static int execute(sqlite3 *sql, const char *text) {
    return sqlite3_exec(sql, text, NULL, NULL, NULL);
}

/* Two processes that both make the file new wait for each other, but for the switch to WAL SQLite itself does not. */
static int prepare_file(sqlite3 *sql, int *version) {
    int rc = SQLITE_BUSY;
    for (int tries = 0; tries < 200 && (rc & 0xFF) == SQLITE_BUSY; tries++) {
        if (tries) usleep(50000);
        rc = execute(sql, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;");
    }
    if (rc != SQLITE_OK || (rc = execute(sql, "BEGIN IMMEDIATE")) != SQLITE_OK) return rc;
    /* Known only now: another process may have made the file meanwhile. */
    rc = version_of(sql, version);
    bool current = rc == SQLITE_OK && *version >= VERSION;
    /* What an earlier version found says nothing about uses and threads. */
    if (rc == SQLITE_OK && !current) rc = execute(sql, "DROP TABLE IF EXISTS choice; DROP TABLE IF EXISTS log;");
    if (current) return execute(sql, "COMMIT");
    if (rc == SQLITE_OK) rc = execute(sql, schema);
    if (rc == SQLITE_OK) rc = execute(sql, "PRAGMA user_version=2");
    if (rc == SQLITE_OK) rc = execute(sql, "COMMIT");
    if (rc != SQLITE_OK) execute(sql, "ROLLBACK");
    return rc;
}

bool tunedb_create(const char *dir, struct tunedb **out, struct err *e) {
    *out = NULL;
    if (!dir)
        return err_set(e, ERR_IO, "there is no cache directory to keep results in; set KGEN_CACHE_DIR to one of yours");
    for (int attempt = 0;; attempt++) {
        int rc, version = 0;
        struct tunedb *db = open_file(dir, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &rc);
        if (rc == SQLITE_OK) rc = prepare_file(db->sql, &version);
        if (rc == SQLITE_OK && version <= VERSION) {
            *out = db;
            return true;
        }
        bool again = damaged(rc) && attempt == 0;
        if (again)
            move_aside(db, sqlite3_errmsg(db->sql));
        else if (rc == SQLITE_OK)
            err_set(e, ERR_IO, "%s was written by a later kgen (version %d, expected %d); move it away", db->path,
                    version, VERSION);
        else
            err_set(e, ERR_IO, "%s: results cannot be kept: %s", db->path, sqlite3_errmsg(db->sql));
        tunedb_close(db);
        if (!again) return false;
    }
}

/* Text from the file, which anything may have written, as tunables; NULL when it is no such thing. */
static json_t *tunables(const char *text) {
    json_t *tune = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const char *name;
    json_t *value;
    bool ok = json_is_object(tune) && json_object_size(tune) <= MOST_TUNABLES;
    if (ok) json_object_foreach(tune, name, value) {
            json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;
            ok = ok && n >= 1 && n <= LARGEST_TUNABLE;
        }
    if (ok) return tune;
    json_decref(tune);
    return NULL;
}

json_t *tunedb_find(struct tunedb *db, const char *key, int n_threads, enum tune_use use) {
    static const char query[] = "SELECT tune FROM choice WHERE key = ?1 AND threads = ?2 AND use = ?3";
    if (!db || !db->sql) return NULL;
    sqlite3_stmt *s = NULL;
    json_t *tune = NULL;
    int rc = sqlite3_prepare_v2(db->sql, query, -1, &s, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(s, 1, key, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_bind_int(s, 2, n_threads);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(s, 3, tune_use_names[use], -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW)
        tune = tunables((const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE) return tune;
    if (damaged(rc))
        move_aside(db, sqlite3_errmsg(db->sql));
    else
        warn("%s cannot be used (%s): kernels run untuned", db->path, sqlite3_errmsg(db->sql));
    sqlite3_close(db->sql); /* one complaint is enough: from here on it has nothing */
    db->sql = NULL;
    return NULL;
}

static int insert(sqlite3 *sql, const char *text, const struct tune_result *r, const struct tune_entry *x,
                  bool choice) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(sql, text, -1, &s, NULL);
    char *tune = json_dumps(x->tune, JSON_COMPACT | JSON_SORT_KEYS);
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(s, 1, r->key, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 2, r->tokens, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 3, r->kernel, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 4, r->target, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 5, tune, -1, SQLITE_STATIC);
        sqlite3_bind_double(s, 6, x->ms);
        sqlite3_bind_int64(s, 7, (int64_t)time(NULL));
        sqlite3_bind_int(s, 8, r->n_threads);
        sqlite3_bind_text(s, 9, tune_use_names[r->use], -1, SQLITE_STATIC);
        if (choice)
            sqlite3_bind_double(s, 10, r->entries[r->fallback].ms);
        else
            sqlite3_bind_text(s, 10, x->outcome, -1, SQLITE_STATIC);
        rc = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    free(tune);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

bool tunedb_put(struct tunedb *db, const struct tune_result *r, struct err *e) {
    int rc = execute(db->sql, "BEGIN IMMEDIATE");
    bool begun = rc == SQLITE_OK;
    for (size_t i = 0; i < r->n && rc == SQLITE_OK; i++)
        rc = insert(
            db->sql,
            "INSERT INTO log(key, tokens, kernel, target, tune, ms, at, threads, use, outcome)"
            " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
            r, &r->entries[i], false);
    if (rc == SQLITE_OK)
        rc = insert(db->sql,
                    "INSERT OR REPLACE INTO choice(key, tokens, kernel, target, tune, ms, at, threads, use, default_ms)"
                    " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)",
                    r, &r->entries[r->best], true);
    if (rc == SQLITE_OK) rc = execute(db->sql, "COMMIT");
    if (rc == SQLITE_OK) return true;
    err_set(e, ERR_IO, "%s: a result cannot be stored: %s", db->path, sqlite3_errmsg(db->sql));
    if (begun) execute(db->sql, "ROLLBACK");
    if (damaged(rc)) move_aside(db, e->msg);
    return false;
}
