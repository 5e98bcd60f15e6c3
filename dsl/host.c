#include "dsl/host.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    MAX_DEPTH = 100,                /* nesting of data crossing the border */
    STEP_SLICE = 1 << 16,           /* instructions between two looks at the budget */
    STEP_BUDGET = 300 * 1000 * 1000 /* instructions a call: about a second */
};
static const size_t MEMORY_BUDGET = (size_t)1 << 30;

struct dsl {
    lua_State *L;
    size_t bytes;
    long steps;
    struct buf *texts; /* one per embedded source: the text in use */
    char digest[33];
};

static void *allocate(void *ud, void *p, size_t old, size_t n) {
    struct dsl *d = ud;
    if (!p) old = 0;
    if (n == 0) {
        d->bytes -= old;
        free(p);
        return NULL;
    }
    if (d->bytes - old + n > MEMORY_BUDGET) return NULL;
    void *q = realloc(p, n);
    if (q) d->bytes = d->bytes - old + n;
    return q;
}

static struct dsl *state_of(lua_State *L) { return *(struct dsl **)lua_getextraspace(L); }

static void count_steps(lua_State *L, lua_Debug *ar) {
    struct dsl *d = state_of(L);
    d->steps += STEP_SLICE;
    if (d->steps <= STEP_BUDGET) return;
    lua_getinfo(L, "Sl", ar);
    lua_pushfstring(L, "%s:%d: ran over its budget of %d steps; is there an endless loop?", ar->short_src,
                    ar->currentline, STEP_BUDGET);
    lua_error(L);
}

static const struct buf *source(const struct dsl *d, const char *path) {
    for (size_t i = 0; i < n_lua_sources; i++)
        if (strcmp(lua_sources[i].path, path) == 0) return &d->texts[i];
    return NULL;
}

/* What a call does next is a job of its own, with a budget of its own: there are few of them, whatever they are. */
static int next_job(lua_State *L) {
    state_of(L)->steps = 0;
    return 0;
}

/* require "dsl.x": dsl/x.lua, once. */
static int require_module(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, "modules");
    if (lua_getfield(L, -1, name) != LUA_TNIL) return 1;
    lua_pop(L, 1);
    char path[256];
    snprintf(path, sizeof path, "%s.lua", name);
    for (char *p = path; p + 4 < path + strlen(path); p++)
        if (*p == '.') *p = '/';
    const struct buf *text = source(state_of(L), path);
    if (!text) return luaL_error(L, "no module '%s'", name);
    lua_pushfstring(L, "@%s", path);
    if (luaL_loadbufferx(L, text->data, text->len, lua_tostring(L, -1), "t") != LUA_OK) return lua_error(L);
    lua_call(L, 0, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, 2, name);
    return 1;
}

static int load_source(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    const struct buf *text = source(state_of(L), path);
    if (!text) return luaL_error(L, "%s is not among the Lua sources", path);
    lua_pushlstring(L, text->data, text->len);
    return 1;
}

static void push_json(lua_State *L, const json_t *v) {
    luaL_checkstack(L, 4, "data nested too deeply");
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT: {
        const char *key;
        json_t *x;
        lua_newtable(L);
        json_object_foreach((json_t *)v, key, x) {
            push_json(L, x);
            lua_setfield(L, -2, key);
        }
        break;
    }
    case JSON_ARRAY: {
        lua_createtable(L, (int)json_array_size(v), 0);
        for (size_t i = 0; i < json_array_size(v); i++) {
            push_json(L, json_array_get(v, i));
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    }
    case JSON_STRING: lua_pushlstring(L, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(v)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(v)); break;
    case JSON_TRUE: lua_pushboolean(L, 1); break;
    case JSON_FALSE: lua_pushboolean(L, 0); break;
    case JSON_NULL: lua_pushnil(L); break;
    }
}

static json_t *to_json(lua_State *L, int at, int depth, struct err *e) {
    at = lua_absindex(L, at);
    if (depth > MAX_DEPTH || !lua_checkstack(L, 4)) {
        err_set(e, ERR_INPUT, "a Lua result is nested over %d levels", MAX_DEPTH);
        return NULL;
    }
    switch (lua_type(L, at)) {
    case LUA_TNIL: return json_null();
    case LUA_TBOOLEAN: return json_boolean(lua_toboolean(L, at));
    case LUA_TNUMBER:
        if (lua_isinteger(L, at)) return json_integer(lua_tointeger(L, at));
        return json_real(lua_tonumber(L, at));
    case LUA_TSTRING: {
        size_t n;
        const char *s = lua_tolstring(L, at, &n);
        json_t *j = json_stringn(s, n);
        if (!j) err_set(e, ERR_INPUT, "a Lua result is not UTF-8 text");
        return j;
    }
    case LUA_TTABLE: {
        size_t n = lua_rawlen(L, at);
        json_t *out = n ? json_array() : json_object();
        if (n) {
            for (size_t i = 1; i <= n && out; i++) {
                lua_rawgeti(L, at, (lua_Integer)i);
                json_t *x = to_json(L, -1, depth + 1, e);
                lua_pop(L, 1);
                if (!x || json_array_append_new(out, x)) {
                    json_decref(out);
                    return NULL;
                }
            }
            return out;
        }
        for (lua_pushnil(L); lua_next(L, at); lua_pop(L, 1)) {
            if (lua_type(L, -2) != LUA_TSTRING) continue;
            json_t *x = to_json(L, -1, depth + 1, e);
            if (!x || json_object_set_new(out, lua_tostring(L, -2), x)) {
                lua_pop(L, 2);
                json_decref(out);
                return NULL;
            }
        }
        return out;
    }
    default: err_set(e, ERR_INPUT, "a Lua result holds a %s", luaL_typename(L, at)); return NULL;
    }
}

/* Stack: function name, JSON argument (light userdata). */
static int protected_call(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, "main");
    if (lua_getfield(L, -1, lua_tostring(L, 1)) != LUA_TFUNCTION)
        return luaL_error(L, "this program has no '%s' (%s): it runs bundles (--bundle DIR); the rest needs kgen",
                          lua_tostring(L, 1), lua_entry);
    push_json(L, lua_touserdata(L, 2));
    lua_call(L, 1, 1);
    return 1;
}

static int protected_open(lua_State *L) {
    static const luaL_Reg libs[] = {{LUA_GNAME, luaopen_base},       {LUA_TABLIBNAME, luaopen_table},
                                    {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math},
                                    {LUA_UTF8LIBNAME, luaopen_utf8},  {LUA_DBLIBNAME, luaopen_debug}};
    for (size_t i = 0; i < sizeof libs / sizeof *libs; i++) {
        luaL_requiref(L, libs[i].name, libs[i].func, 1);
        lua_pop(L, 1);
    }
    static const char *const gone[] = {"dofile", "loadfile", "print", "collectgarbage", "warn"};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        lua_pushnil(L);
        lua_setglobal(L, gone[i]);
    }
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, "modules");
    lua_pushcfunction(L, require_module);
    lua_setglobal(L, "require");
    lua_pushcfunction(L, next_job);
    lua_setglobal(L, "next_job");
    lua_pushcfunction(L, require_module);
    lua_pushstring(L, lua_entry);
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "main");
    if (lua_getfield(L, -1, "open") == LUA_TNIL) return 0;
    lua_newtable(L);
    for (size_t i = 0; i < n_lua_sources; i++) {
        lua_pushstring(L, lua_sources[i].path);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushcfunction(L, load_source);
    lua_call(L, 2, 0);
    return 0;
}

static bool lua_failed(struct dsl *d, struct err *e) {
    const char *msg = lua_tostring(d->L, -1);
    err_set(e, ERR_INPUT, "%s", msg ? msg : "an error of unknown kind in Lua");
    lua_settop(d->L, 0);
    return false;
}

static bool read_sources(struct dsl *d, struct err *e) {
    const char *dir = getenv("KGEN_LUA");
    XXH3_state_t *h = XXH3_createState();
    XXH3_128bits_reset(h);
    d->texts = mem_new(n_lua_sources * sizeof *d->texts);
    bool ok = true;
    for (size_t i = 0; i < n_lua_sources && ok; i++) {
        const struct lua_source *s = &lua_sources[i];
        struct buf path = {0};
        if (dir && *dir) {
            buf_printf(&path, "%s/%s", dir, s->path);
            FILE *f = fopen(path.data, "rb");
            if (f) {
                fclose(f);
                ok = file_read(path.data, &d->texts[i], e);
            }
        }
        buf_free(&path);
        if (ok && !d->texts[i].data) buf_add(&d->texts[i], s->text, s->len);
        XXH3_128bits_update(h, s->path, strlen(s->path) + 1);
        if (ok) XXH3_128bits_update(h, d->texts[i].data, d->texts[i].len);
    }
    XXH128_hash_t v = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    snprintf(d->digest, sizeof d->digest, "%016llx%016llx", (unsigned long long)v.high64, (unsigned long long)v.low64);
    return ok;
}

bool dsl_open(struct dsl **out, struct err *e) {
    struct dsl *d = mem_new(sizeof *d);
    *out = NULL;
    d->L = lua_newstate(allocate, d);
    if (!d->L || !read_sources(d, e)) {
        if (!d->L) err_set(e, ERR_MEMORY, "not enough memory for a Lua state");
        dsl_close(d);
        return false;
    }
    *(struct dsl **)lua_getextraspace(d->L) = d;
    lua_sethook(d->L, count_steps, LUA_MASKCOUNT, STEP_SLICE);
    lua_pushcfunction(d->L, protected_open);
    if (lua_pcall(d->L, 0, 0, 0) != LUA_OK) {
        lua_failed(d, e);
        dsl_close(d);
        return false;
    }
    *out = d;
    return true;
}

void dsl_close(struct dsl *d) {
    if (!d) return;
    if (d->L) lua_close(d->L);
    if (d->texts)
        for (size_t i = 0; i < n_lua_sources; i++) buf_free(&d->texts[i]);
    mem_free(d->texts);
    mem_free(d);
}

bool dsl_call(struct dsl *d, const char *fn, const json_t *arg, json_t **out, struct err *e) {
    lua_State *L = d->L;
    d->steps = 0;
    lua_settop(L, 0);
    lua_pushcfunction(L, protected_call);
    lua_pushstring(L, fn);
    lua_pushlightuserdata(L, (void *)arg);
    if (lua_pcall(L, 2, 1, 0) != LUA_OK) return lua_failed(d, e);
    bool ok = true;
    if (out) {
        *out = to_json(L, -1, 0, e);
        ok = *out != NULL;
    }
    lua_settop(L, 0);
    return ok;
}

const char *dsl_digest(const struct dsl *d) { return d->digest; }
