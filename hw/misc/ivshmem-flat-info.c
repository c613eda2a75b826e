/*
 * What an ivshmem-flat tells of itself
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/visitor.h"
#include "hw/misc/ivshmem-flat.h"
#include "hw/misc/ivshmem-flat-info.h"

static bool ivshmem_flat_info_connected(Object *obj, Error **errp)
{
    return IVSHMEM_FLAT(obj)->client.phase == IVSHMEM_CLIENT_CONNECTED;
}

static void ivshmem_flat_info_id(Object *obj, Visitor *v, const char *name,
                                 void *opaque, Error **errp)
{
    visit_type_uint16(v, name, &IVSHMEM_FLAT(obj)->client.peers.id, errp);
}

static void ivshmem_flat_info_sent(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    visit_type_uint64(v, name, &IVSHMEM_FLAT(obj)->client.peers.doorbells_sent,
                      errp);
}

static void ivshmem_flat_info_dropped(Object *obj, Visitor *v, const char *name,
                                      void *opaque, Error **errp)
{
    visit_type_uint64(v, name,
                      &IVSHMEM_FLAT(obj)->client.peers.doorbells_dropped,
                      errp);
}

static void ivshmem_flat_info_peers(Object *obj, Visitor *v, const char *name,
                                    void *opaque, Error **errp)
{
    IvshmemPeers *peers = &IVSHMEM_FLAT(obj)->client.peers;
    bool ok = visit_start_list(v, name, NULL, 0, errp);

    if (!ok) {
        return;
    }
    for (uint32_t id = 0; ok && peers->connected; id++) {
        id = ivshmem_peers_next(peers, id);
        if (id == IVSHMEM_MAX_PEERS) {
            break;
        }
        ok = visit_start_struct(v, NULL, NULL, 0, errp);
        if (ok) {
            ok = visit_type_uint32(v, "id", &id, errp) &&
                 visit_type_uint32(v, "vectors", &peers->others[id]->nvectors,
                                   errp);
            visit_end_struct(v, NULL);
        }
    }
    visit_end_list(v, NULL);
}

static void ivshmem_flat_info_interrupts(Object *obj, Visitor *v,
                                         const char *name, void *opaque,
                                         Error **errp)
{
    IvshmemPeers *peers = &IVSHMEM_FLAT(obj)->client.peers;
    bool ok = visit_start_list(v, name, NULL, 0, errp);

    if (!ok) {
        return;
    }
    for (unsigned i = 0; ok && i < peers->nvectors; i++) {
        ok = visit_type_uint64(v, NULL, &peers->own[i].interrupts, errp);
    }
    visit_end_list(v, NULL);
}

void ivshmem_flat_info_add_properties(ObjectClass *klass)
{
    static const struct {
        const char *name, *type, *description;
        ObjectPropertyAccessor *get;
    } properties[] = {
        { "id", "uint16", "Own ID", ivshmem_flat_info_id },
        { "peers", "list", "The peers that are known: id and number of vectors",
          ivshmem_flat_info_peers },
        { "doorbells-sent", "uint64", "Doorbells that have reached a peer",
          ivshmem_flat_info_sent },
        { "doorbells-dropped", "uint64", "Doorbells that have reached nobody",
          ivshmem_flat_info_dropped },
        { "interrupts", "list", "Interrupts taken, per own vector",
          ivshmem_flat_info_interrupts },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(properties); i++) {
        object_class_property_add(klass, properties[i].name, properties[i].type,
                                  properties[i].get, NULL, NULL, NULL);
        object_class_property_set_description(klass, properties[i].name,
                                              properties[i].description);
    }
    object_class_property_add_bool(klass, "connected",
                                   ivshmem_flat_info_connected, NULL);
    object_class_property_set_description(klass, "connected",
                                          "Whether the server is there");
}
