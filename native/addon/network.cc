// Network namespaces by path. Every call enters the namespace on a thread of its own, which ends
// with the call: no other thread is ever in a namespace that is not its own. Answers are promises.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "addon/arguments.h"
#include "addon/bindings.h"
#include "core/fd.h"
#include "core/net_change.h"
#include "core/net_tables.h"

namespace bulkhead::addon {
namespace {

Status enter(const std::string& path) {
  // O_NONBLOCK: a path that is a fifo must not hang the thread.
  UniqueFd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!space) return last_error("open");
  if (::setns(space.get(), CLONE_NEWNET) != 0) return last_error("setns");
  return success();
}

struct Visit {
  const std::string& path;
  const std::function<Status(NetlinkSocket&)>& body;
  Status result = success();
};

void* visit_thread(void* argument) {
  Visit& visit = *static_cast<Visit*>(argument);
  visit.result = enter(visit.path);
  if (!visit.result) return nullptr;
  Result<NetlinkSocket> socket = NetlinkSocket::open();
  visit.result = socket ? visit.body(*socket) : Status(socket.error());
  return nullptr;
}

// Runs the body in the namespace, on a thread that ends before this returns.
Status visit(const std::string& path, const std::function<Status(NetlinkSocket&)>& body) {
  Visit visit{path, body};
  // Signals are the main thread's.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int error = ::pthread_create(&thread, nullptr, visit_thread, &visit);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0) return Error{error, "pthread_create"};
  ::pthread_join(thread, nullptr);
  return visit.result;
}

// A call on libuv's threads that answers a promise.
class NetworkCall : public Napi::AsyncWorker {
 public:
  NetworkCall(Napi::Env env, std::string path)
      : AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), path_(std::move(path)) {}
  Napi::Value start() {
    const Napi::Value promise = deferred_.Promise();
    Queue();
    return promise;
  }

 protected:
  virtual Status work(NetlinkSocket& socket) = 0;
  virtual Napi::Value answer(Napi::Env env) = 0;

  void Execute() override {
    status_ = visit(path_, [this](NetlinkSocket& socket) {
      Status done = work(socket);
      reason_ = socket.reason();
      return done;
    });
  }
  void OnOK() override {
    const Napi::Env env = Env();
    if (status_) {
      deferred_.Resolve(answer(env));
      return;
    }
    Napi::Error error = make_errno(env, status_.error().code, status_.error().op, path_);
    if (!reason_.empty()) error.Value().Set("reason", Napi::String::New(env, reason_));
    deferred_.Reject(error.Value());
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string path_;
  Status status_ = success();
  std::string reason_;
};

Result<NetLink> find_link(NetlinkSocket& socket, const std::string& name) {
  Result<std::vector<NetLink>> links = list_links(socket);
  if (!links) return links.error();
  for (NetLink& link : *links) {
    if (link.name == name) return std::move(link);
  }
  return Error{ENODEV, "link"};
}

// "02:00:00:00:00:01"
std::string mac_text(const std::vector<uint8_t>& mac) {
  std::string text;
  for (const uint8_t byte : mac) {
    char part[4];
    ::snprintf(part, sizeof(part), ":%02x", byte);
    text.append(part);
  }
  return text.empty() ? text : text.substr(1);
}

void set_ip(Napi::Object object, const char* name, const IpAddress& address) {
  if (!address.empty()) object.Set(name, address.text());
}

Napi::Object link_object(Napi::Env env, const NetLink& link) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("index", link.index);
  object.Set("name", link.name);
  object.Set("kind", link.kind);
  object.Set("type", link.type);
  object.Set("mac", mac_text(link.mac));
  object.Set("mtu", link.mtu);
  object.Set("flags", link.flags);
  object.Set("master", link.master);
  object.Set("mode", link.mode);
  return object;
}

Napi::Object address_object(Napi::Env env, const NetAddress& address) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("index", address.index);
  set_ip(object, "address", address.address);
  object.Set("prefix", address.prefix);
  set_ip(object, "peer", address.peer);
  set_ip(object, "broadcast", address.broadcast);
  object.Set("scope", address.scope);
  object.Set("flags", address.flags);
  return object;
}

Napi::Object route_object(Napi::Env env, const NetRoute& route) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("family", route.family);
  set_ip(object, "destination", route.destination);
  object.Set("prefix", route.prefix);
  set_ip(object, "gateway", route.gateway);
  set_ip(object, "source", route.source);
  object.Set("index", route.index);
  object.Set("table", route.table);
  object.Set("protocol", route.protocol);
  object.Set("scope", route.scope);
  object.Set("type", route.type);
  object.Set("priority", route.priority);
  object.Set("flags", route.flags);
  object.Set("mtu", route.mtu);
  object.Set("multipath", route.multipath);
  return object;
}

Napi::Object neighbour_object(Napi::Env env, const NetNeighbour& neighbour) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("index", neighbour.index);
  set_ip(object, "address", neighbour.address);
  object.Set("mac", mac_text(neighbour.mac));
  object.Set("state", neighbour.state);
  object.Set("flags", neighbour.flags);
  return object;
}

template <class Row>
Napi::Array rows(Napi::Env env, const std::vector<Row>& from,
                 Napi::Object (*make)(Napi::Env, const Row&)) {
  Napi::Array array = Napi::Array::New(env, from.size());
  for (uint32_t i = 0; i < from.size(); i++) array.Set(i, make(env, from[i]));
  return array;
}

template <class Row>
Status take(Result<std::vector<Row>> rows, std::vector<Row>& out) {
  if (!rows) return rows.error();
  out = rows.take();
  return success();
}

class Inventory : public NetworkCall {
 public:
  using NetworkCall::NetworkCall;

 protected:
  Status work(NetlinkSocket& socket) override {
    if (Status done = take(list_links(socket), links_); !done) return done;
    if (Status done = take(list_addresses(socket), addresses_); !done) return done;
    if (Status done = take(list_routes(socket), routes_); !done) return done;
    return take(list_neighbours(socket), neighbours_);
  }
  Napi::Value answer(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("links", rows(env, links_, link_object));
    object.Set("addresses", rows(env, addresses_, address_object));
    object.Set("routes", rows(env, routes_, route_object));
    object.Set("neighbours", rows(env, neighbours_, neighbour_object));
    return object;
  }

 private:
  std::vector<NetLink> links_;
  std::vector<NetAddress> addresses_;
  std::vector<NetRoute> routes_;
  std::vector<NetNeighbour> neighbours_;
};

// netnsInventory(path)
Napi::Value netns_inventory(const Napi::CallbackInfo& info) {
  std::string path;
  if (!get_string(info[0], "path", path)) return info.Env().Undefined();
  return (new Inventory(info.Env(), std::move(path)))->start();
}

class TapBridge : public NetworkCall {
 public:
  TapBridge(Napi::Env env, std::string path, std::string link, std::string tap, bool vnet_header)
      : NetworkCall(env, std::move(path)),
        link_(std::move(link)),
        tap_(std::move(tap)),
        vnet_header_(vnet_header) {}

 protected:
  Status work(NetlinkSocket& socket) override {
    const Result<NetLink> link = find_link(socket, link_);
    if (!link) return link.error();
    Result<UniqueFd> fd = create_tap(tap_, vnet_header_);
    if (!fd) return fd.error();
    // What was made of the tap goes with its descriptor; the link is put back by hand.
    if (Status done = connect(socket, link.value()); !done) {
      (void)stop_redirect(socket, link.value().index).ok();
      return done;
    }
    fd_ = fd.take();
    return success();
  }
  Napi::Value answer(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("fd", fd_.release());
    object.Set("name", tap_);
    return object;
  }

 private:
  Status connect(NetlinkSocket& socket, const NetLink& link) {
    const Result<NetLink> tap = find_link(socket, tap_);
    if (!tap) return tap.error();
    LinkChange change;
    change.mtu = link.mtu;
    change.up = true;
    // The tap speaks for the guest alone.
    change.no_own_address = true;
    Status done = change_link(socket, tap.value().index, change);
    if (!done) return Error{done.error().code, "link"};
    done = redirect_ingress(socket, link.index, tap.value().index);
    if (!done) return done;
    return redirect_ingress(socket, tap.value().index, link.index);
  }

  std::string link_;
  std::string tap_;
  bool vnet_header_;
  UniqueFd fd_;
};

// tapBridge(path, link, { tap, vnetHeader? })
Napi::Value tap_bridge(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  std::string path;
  std::string link;
  std::string tap;
  if (!get_string(info[0], "path", path) || !get_string(info[1], "link", link)) {
    return env.Undefined();
  }
  if (!info[2].IsObject()) return throw_type_error(env, "options: expected an object");
  const Napi::Object options = info[2].As<Napi::Object>();
  if (!get_string(options.Get("tap"), "tap", tap)) return env.Undefined();
  const Napi::Value header = options.Get("vnetHeader");
  const bool vnet_header = header.IsUndefined() || header.ToBoolean().Value();
  return (new TapBridge(env, std::move(path), std::move(link), std::move(tap), vnet_header))
      ->start();
}

class TapUnbridge : public NetworkCall {
 public:
  TapUnbridge(Napi::Env env, std::string path, std::string link)
      : NetworkCall(env, std::move(path)), link_(std::move(link)) {}

 protected:
  Status work(NetlinkSocket& socket) override {
    const Result<NetLink> link = find_link(socket, link_);
    if (!link) return link.error().code == ENODEV ? success() : Status(link.error());
    return stop_redirect(socket, link.value().index);
  }
  Napi::Value answer(Napi::Env env) override { return env.Undefined(); }

 private:
  std::string link_;
};

// tapUnbridge(path, link)
Napi::Value tap_unbridge(const Napi::CallbackInfo& info) {
  std::string path;
  std::string link;
  if (!get_string(info[0], "path", path) || !get_string(info[1], "link", link)) {
    return info.Env().Undefined();
  }
  return (new TapUnbridge(info.Env(), std::move(path), std::move(link)))->start();
}

}  // namespace

void define_network(Napi::Env env, Napi::Object exports) {
  define<netns_inventory>(env, exports, "netnsInventory");
  define<tap_bridge>(env, exports, "tapBridge");
  define<tap_unbridge>(env, exports, "tapUnbridge");
}

}  // namespace bulkhead::addon
