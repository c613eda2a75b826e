/*
 * Mailbox driver on the doorbells of ivshmem-flat
 *
 * Copyright (c) 2026 The ivshmem-flat authors
 * SPDX-License-Identifier: Apache-2.0
 */

/*
 * Channel n is vector n, both ways: sending on it rings vector n of the peer,
 * and what a peer rings on own vector n is received on it, in the ISR. Signals
 * alone, no data.
 */

#define DT_DRV_COMPAT qemu_ivshmem_flat_mbox

#include <errno.h>

#include <zephyr/device.h>
#include <zephyr/devicetree.h>
#include <zephyr/drivers/mbox.h>
#include <zephyr/drivers/virtualization/ivshmem.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/util.h>

#include <ivshmem_flat/ivshmem_flat.h>

#ifndef DEVICE_API
#define DEVICE_API(class, name) const struct class##_driver_api name
#endif

/* Zephyr has got this type together with mbox_dt_spec, after 3.5. */
#ifndef MBOX_DT_SPEC_GET
typedef uint32_t mbox_channel_id_t;
#endif

BUILD_ASSERT(CONFIG_IVSHMEM_FLAT_INIT_PRIORITY < CONFIG_MBOX_INIT_PRIORITY,
	     "mailboxes come up after the device that they are on");

struct mbox_ivshmem_flat_channel {
	mbox_callback_t callback;
	void *user_data;
	bool enabled;
};

struct mbox_ivshmem_flat_config {
	const struct device *ivshmem;
	int32_t peer_id;	/* -1: is found */
	int32_t peer_index;	/* among those found; -1: all */
	uint32_t peers;		/* IDs below which it is, if the device does not tell */
};

struct mbox_ivshmem_flat_data {
	const struct device *dev;
	struct k_spinlock lock;
	struct mbox_ivshmem_flat_channel *channels;
};

static bool mbox_ivshmem_flat_has(const struct device *dev, mbox_channel_id_t id)
{
	const struct mbox_ivshmem_flat_config *config = dev->config;

	return id < ivshmem_get_vectors(config->ivshmem);
}

/* Who has just signalled is among those that the device tells of. */
static int mbox_ivshmem_flat_send_found(const struct mbox_ivshmem_flat_config *config,
					mbox_channel_id_t id)
{
	int32_t index = 0;
	uint16_t peer;
	int ret;

	for (ret = ivshmem_flat_next_peer(config->ivshmem, 0, &peer); ret == 0;
	     ret = ivshmem_flat_next_peer(config->ivshmem, peer + 1, &peer)) {
		if (config->peer_index < 0 || config->peer_index == index++) {
			(void)ivshmem_int_peer(config->ivshmem, peer, id);
		}
	}

	return ret == -ENOENT ? 0 : ret;
}

static int mbox_ivshmem_flat_send(const struct device *dev, mbox_channel_id_t id,
				  const struct mbox_msg *msg)
{
	const struct mbox_ivshmem_flat_config *config = dev->config;
	uint32_t own_id;
	int ret;

	if (msg != NULL) {
		return -EMSGSIZE;
	}
	if (!mbox_ivshmem_flat_has(dev, id)) {
		return -EINVAL;
	}
	if (config->peer_id >= 0) {
		return ivshmem_int_peer(config->ivshmem, config->peer_id, id);
	}
	ret = mbox_ivshmem_flat_send_found(config, id);
	if (ret != -ENOTSUP || config->peer_index >= 0) {
		return ret;
	}

	/* Nothing tells which of them are there; to others a doorbell is void. */
	own_id = ivshmem_get_id(config->ivshmem);
	for (uint32_t peer = 0; peer < config->peers; peer++) {
		if (peer != own_id) {
			(void)ivshmem_int_peer(config->ivshmem, peer, id);
		}
	}

	return 0;
}

static void mbox_ivshmem_flat_received(const struct device *ivshmem, uint16_t vector,
				       void *user_data)
{
	struct mbox_ivshmem_flat_data *data = user_data;
	struct mbox_ivshmem_flat_channel channel;
	k_spinlock_key_t key;

	ARG_UNUSED(ivshmem);

	key = k_spin_lock(&data->lock);
	channel = data->channels[vector];
	k_spin_unlock(&data->lock, key);

	if (channel.enabled && channel.callback != NULL) {
		channel.callback(data->dev, vector, channel.user_data, NULL);
	}
}

static int mbox_ivshmem_flat_register_callback(const struct device *dev, mbox_channel_id_t id,
					       mbox_callback_t callback, void *user_data)
{
	struct mbox_ivshmem_flat_data *data = dev->data;
	k_spinlock_key_t key;

	if (!mbox_ivshmem_flat_has(dev, id)) {
		return -EINVAL;
	}

	key = k_spin_lock(&data->lock);
	data->channels[id].callback = callback;
	data->channels[id].user_data = user_data;
	k_spin_unlock(&data->lock, key);

	return 0;
}

static int mbox_ivshmem_flat_mtu_get(const struct device *dev)
{
	ARG_UNUSED(dev);

	return 0;
}

static uint32_t mbox_ivshmem_flat_max_channels_get(const struct device *dev)
{
	const struct mbox_ivshmem_flat_config *config = dev->config;

	return ivshmem_get_vectors(config->ivshmem);
}

static int mbox_ivshmem_flat_set_enabled(const struct device *dev, mbox_channel_id_t id,
					 bool enabled)
{
	const struct mbox_ivshmem_flat_config *config = dev->config;
	struct mbox_ivshmem_flat_data *data = dev->data;
	k_spinlock_key_t key;
	bool already;

	if (!mbox_ivshmem_flat_has(dev, id)) {
		return -EINVAL;
	}

	key = k_spin_lock(&data->lock);
	already = data->channels[id].enabled == enabled;
	data->channels[id].enabled = enabled;
	k_spin_unlock(&data->lock, key);
	if (already) {
		return -EALREADY;
	}

	/* The vector is disabled with the channel: signals wait for it. */
	return ivshmem_flat_set_callback(config->ivshmem, id,
					 enabled ? mbox_ivshmem_flat_received : NULL, data);
}

static int mbox_ivshmem_flat_init(const struct device *dev)
{
	const struct mbox_ivshmem_flat_config *config = dev->config;

	return device_is_ready(config->ivshmem) ? 0 : -ENODEV;
}

static DEVICE_API(mbox, mbox_ivshmem_flat_api) = {
	.send = mbox_ivshmem_flat_send,
	.register_callback = mbox_ivshmem_flat_register_callback,
	.mtu_get = mbox_ivshmem_flat_mtu_get,
	.max_channels_get = mbox_ivshmem_flat_max_channels_get,
	.set_enabled = mbox_ivshmem_flat_set_enabled,
};

#define MBOX_IVSHMEM_FLAT_DEFINE(inst)                                                             \
	BUILD_ASSERT(DT_INST_PROP_OR(inst, peer_id, 0) <= UINT16_MAX &&                            \
			     DT_INST_PROP(inst, peers) >= 2 &&                                     \
			     DT_INST_PROP(inst, peers) <= UINT16_MAX + 1,                          \
		     "peer-id is 0 to 65535, and peers 2 to 65536");                               \
                                                                                                   \
	static struct mbox_ivshmem_flat_channel                                                    \
		mbox_ivshmem_flat_channels_##inst[DT_NUM_IRQS(DT_INST_PHANDLE(inst, ivshmem))];    \
                                                                                                   \
	static const struct mbox_ivshmem_flat_config mbox_ivshmem_flat_config_##inst = {           \
		.ivshmem = DEVICE_DT_GET(DT_INST_PHANDLE(inst, ivshmem)),                          \
		.peer_id = DT_INST_PROP_OR(inst, peer_id, -1),                                     \
		.peer_index = DT_INST_PROP_OR(inst, peer_index, -1),                               \
		.peers = DT_INST_PROP(inst, peers),                                                \
	};                                                                                         \
                                                                                                   \
	static struct mbox_ivshmem_flat_data mbox_ivshmem_flat_data_##inst = {                     \
		.dev = DEVICE_DT_INST_GET(inst),                                                   \
		.channels = mbox_ivshmem_flat_channels_##inst,                                     \
	};                                                                                         \
                                                                                                   \
	DEVICE_DT_INST_DEFINE(inst, mbox_ivshmem_flat_init, NULL, &mbox_ivshmem_flat_data_##inst,  \
			      &mbox_ivshmem_flat_config_##inst, POST_KERNEL,                       \
			      CONFIG_MBOX_INIT_PRIORITY, &mbox_ivshmem_flat_api);

DT_INST_FOREACH_STATUS_OKAY(MBOX_IVSHMEM_FLAT_DEFINE)
